//! The files that the topology file names: whether they can be read, and who else can read them.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::problem::{Findings, Place};

/// Larger than any passfile in use; keeps a mistaken path, such as a device, from filling the memory.
const LARGEST: u64 = 16 << 20;

/// Who may read a file that holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    Owner,
    /// PostgreSQL accepts this for its own keys: owned by root and readable for one group.
    RootAndGroup,
    Others,
}

pub(super) fn readers(file: &fs::Metadata) -> Readers {
    match file.mode() & 0o077 {
        0 => Readers::Owner,
        mode if file.uid() == 0 && mode & !0o040 == 0 => Readers::RootAndGroup,
        _ => Readers::Others,
    }
}

/// Reports a file that cannot be read.
pub(super) fn readable(key: &str, path: &Path, place: Place, findings: &mut Findings<'_>) {
    if let Err(error) = open(path) {
        findings.contradiction(&[place], || format!("{key}: cannot read {}: {error}", path.display()));
    }
}

/// As [`readable`], and warns of others that can read it.
pub(super) fn private(key: &str, path: &Path, place: Place, findings: &mut Findings<'_>) {
    readable(key, path, place, findings);
    warn_of_readers(key, path, place, findings);
}

/// The path and the text of a file with secrets. `None`: reported.
pub(super) fn read(
    key: &str,
    path: &Path,
    place: Place,
    findings: &mut Findings<'_>,
) -> Option<(PathBuf, Zeroizing<String>)> {
    match read_text(path) {
        Ok(text) => {
            warn_of_readers(key, path, place, findings);
            Some((path.to_owned(), Zeroizing::new(text)))
        }
        Err(error) => {
            findings.contradiction(&[place], || format!("{key}: cannot read {}: {error}", path.display()));
            None
        }
    }
}

fn warn_of_readers(key: &str, path: &Path, place: Place, findings: &mut Findings<'_>) {
    if fs::metadata(path).is_ok_and(|file| readers(&file) == Readers::Others) {
        let message = format!("{key}: others than its owner can read {}; chmod 600 keeps it secret", path.display());
        findings.warning(&[place], message);
    }
}

/// # Errors
/// What the operating system says; not UTF-8; not a file; larger than 16 MiB.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    let (file, size) = open(path)?;
    if size > LARGEST {
        return Err(Error::new(ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// A plain file and its size. Looked at before it is opened: opening a named pipe waits for its other end.
fn open(path: &Path) -> std::io::Result<(File, u64)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a plain file"));
    }
    Ok((File::open(path)?, metadata.len()))
}
