//! What `[failover]` needs of the machine that pgpilot runs on: programs, and a place for the record.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Findings, Grade};
use crate::config::Failover;

const ABOUT: &str = "failover";

pub(super) fn check(failover: &Failover, findings: &mut Findings) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (key, command) in failover.commands() {
        let program = command.first().map_or("", String::as_str);
        if !can_be_run(program, &directories) {
            findings.add(Grade::Bad, ABOUT, format!("{key}: {program} cannot be executed"));
        }
    }
    if let Some(file) = &failover.state_file
        && let Err(why) = can_be_kept(file)
    {
        findings.add(Grade::Bad, ABOUT, format!("state_file: {}: {why}", file.display()));
    }
}

/// As execvp looks for it: a name without a slash in the directories of PATH.
fn can_be_run(program: &str, directories: &[PathBuf]) -> bool {
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return executable(Path::new(program));
    }
    directories.iter().any(|directory| executable(&directory.join(program)))
}

/// Whether the file can be written, and replaced.
fn can_be_kept(file: &Path) -> Result<(), String> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return Err(format!("{} is not a directory", directory.display()));
    }
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{} cannot be written: {error}", directory.display()))?;
    if file.exists() {
        if !file.is_file() {
            return Err("not a plain file".to_owned());
        }
        access(file, Access::READ_OK | Access::WRITE_OK).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn programs_are_looked_for_as_the_system_does() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let (good, bad) = (write("fence", 0o755), write("notes", 0o644));
        let path = [directory.path().to_owned()];
        for (program, expected) in [
            (good.as_str(), true),
            (bad.as_str(), false),
            ("fence", true),
            ("notes", false),
            ("missing", false),
            ("/missing", false),
            (directory.path().to_str().unwrap(), false),
        ] {
            assert_eq!(can_be_run(program, &path), expected, "{program}");
        }
        assert!(!can_be_run("fence", &[]));
    }

    #[test]
    fn the_record_needs_a_directory_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        assert_eq!(can_be_kept(&file), Ok(()));
        assert!(can_be_kept(&directory.path().join("missing/state")).unwrap_err().contains("is not a directory"));
        std::fs::create_dir(&file).unwrap();
        assert_eq!(can_be_kept(&file), Err("not a plain file".to_owned()));
    }
}
