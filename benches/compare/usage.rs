//! What a family of processes costs, from `/proc`.

use std::fs;
use std::time::Duration;

/// Every process at one moment. Source: proc(5).
#[derive(Debug)]
pub(crate) struct Processes(Vec<Process>);

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    parent: u32,
    /// User and system time, in clock ticks, its own and that of its children that have ended.
    ticks: u64,
}

impl Processes {
    pub(crate) fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(Process::read).collect())
    }

    /// The descendants of a process, without itself.
    pub(crate) fn below(&self, ancestor: u32) -> Vec<u32> {
        let mut family = vec![ancestor];
        let mut next = 0;
        while let Some(&parent) = family.get(next) {
            family.extend(self.0.iter().filter(|process| process.parent == parent).map(|process| process.pid));
            next += 1;
        }
        family.split_off(1)
    }

    /// The time that the descendants of a process have spent on a CPU so far, counted in steps of a clock tick (10 ms).
    pub(crate) fn cpu_below(&self, ancestor: u32) -> Duration {
        self.cpu(&self.below(ancestor))
    }

    /// The same with the process itself.
    pub(crate) fn cpu_of(&self, ancestor: u32) -> Duration {
        let mut family = self.below(ancestor);
        family.push(ancestor);
        self.cpu(&family)
    }

    fn cpu(&self, family: &[u32]) -> Duration {
        let members = self.0.iter().filter(|process| family.contains(&process.pid));
        let ticks: u64 = members.map(|process| process.ticks).sum();
        Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// The memory that the descendants of a process hold, in KiB: what several of them share counts once
    /// (the proportional set size).
    pub(crate) fn memory_below(&self, ancestor: u32) -> u64 {
        self.below(ancestor).into_iter().filter_map(proportional_set_size).sum()
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (parent, ticks) = parse_stat(&text)?;
        Some(Self { pid, parent, ticks })
    }
}

/// The parent, and the ticks: fields 4 and 14 to 17. The name, field 2, is in parentheses and can hold anything.
fn parse_stat(text: &str) -> Option<(u32, u64)> {
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let parent = rest.get(1)?.parse().ok()?;
    let ticks = rest.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((parent, ticks))
}

fn proportional_set_size(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
