//! One run after another.

use super::Simulation;

/// Which ones are to be run: as the environment says, or `usual` and those in which something was `found` once.
pub(super) fn seeds(usual: u64, found: &[u64]) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("PGPILOT_SEED"), number("PGPILOT_SCHEDULES")) {
        (Some(seed), _) => vec![seed],
        (None, Some(schedules)) => (0..schedules).collect(),
        (None, None) => (0..usual).chain(found.iter().copied()).collect(),
    }
}

/// Runs them, and counts their promotions and acknowledged writes.
pub(super) fn run_all(seeds: &[u64], mut run: impl FnMut(u64) -> (u32, usize)) {
    let (mut promotions, mut acknowledged) = (0, 0);
    for &seed in seeds {
        let one = std::panic::AssertUnwindSafe(|| run(seed));
        match std::panic::catch_unwind(one) {
            Ok((promoted, written)) => (promotions, acknowledged) = (promotions + promoted, acknowledged + written),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{} schedules, {promotions} promotions, {acknowledged} acknowledged writes", seeds.len());
    assert!(seeds.len() < 100 || promotions > 100, "{promotions} promotions");
}

#[test]
fn every_schedule_keeps_its_promises() {
    let seeds = seeds(2000, &[56_817]);
    run_all(&seeds, |seed| {
        let mut simulation = Simulation::new(seed);
        simulation.trace = seeds.len() == 1;
        simulation.run();
        (simulation.promotions, simulation.acknowledged.len())
    });
}
