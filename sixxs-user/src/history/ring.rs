//! Writes and reads the records of a tunnel's file.
//!
//! Each write opens the file again, so that a file or a file system that is removed or replaced is no error. A write is one
//! aligned record in place: it can be lost, by a crash or on a full disk, and damages no other.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sixxs_core::history::{
    Minute, Record, file_name,
    ring::{self, HEADER, HEADER_BYTES, RECORD_BYTES, RECORDS},
};
use tracing::warn;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A file of this version.
    Ring,
    /// A new file, or one whose header was not written completely.
    Empty,
    /// Anything else.
    Foreign,
}

/// Writes the record of a minute. A file of another kind or version is set aside, and a new one begins.
pub(super) fn write(path: &Path, minute: Minute, record: &Record) -> anyhow::Result<()> {
    let file = open_for_writing(path)?;
    file.write_all_at(&record.to_bytes(minute), ring::offset(minute))
        .with_context(|| format!("write {}", path.display()))
}

/// The records of the minutes from `from` to `until`, both included, in the order of time. At most one lap is read. A file
/// that does not exist, or is of another kind or version, has none.
pub(crate) fn read(
    path: &Path,
    from: Minute,
    until: Minute,
) -> anyhow::Result<Vec<(Minute, Record)>> {
    let what = || format!("read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(what),
    };
    let mut records = Vec::new();
    if content(&file).with_context(what)? != Content::Ring || until < from {
        return Ok(records);
    }
    let first = from.max(until.minus(RECORDS - 1));
    let count = until.number() - first.number() + 1;
    // The ring may end within the period.
    let to_end = count.min(RECORDS - ring::place(first));
    read_run(&file, first, to_end, &mut records).with_context(what)?;
    read_run(&file, first.plus(to_end), count - to_end, &mut records).with_context(what)?;
    Ok(records)
}

/// Reads the records of `count` minutes whose places follow each other.
fn read_run(
    file: &File,
    first: Minute,
    count: u32,
    records: &mut Vec<(Minute, Record)>,
) -> io::Result<()> {
    let count_of_places = usize::try_from(count).unwrap_or(0);
    let mut bytes = vec![0; count_of_places * RECORD_BYTES];
    let length = read_at_most(file, &mut bytes, ring::offset(first))?;
    let (places, _) = bytes[..length].as_chunks::<RECORD_BYTES>();
    for (place, index) in places.iter().zip(0..) {
        let minute = first.plus(index);
        if let Some(record) = Record::from_bytes(*place, minute) {
            records.push((minute, record));
        }
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        let position = offset + u64::try_from(length).unwrap_or(0);
        match file.read_at(&mut buffer[length..], position) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn content(file: &File) -> io::Result<Content> {
    let mut header = [0; HEADER_BYTES];
    let length = read_at_most(file, &mut header, 0)?;
    Ok(match header[..length] == HEADER[..length] {
        true if length == HEADER_BYTES => Content::Ring,
        true => Content::Empty,
        false => Content::Foreign,
    })
}

fn open_for_writing(path: &Path) -> anyhow::Result<File> {
    let what = || format!("open {}", path.display());
    let mut file = open_or_create(path)?;
    match content(&file).with_context(what)? {
        Content::Ring => return Ok(file),
        Content::Empty => {}
        Content::Foreign => {
            set_aside(path)?;
            file = open_or_create(path)?;
        }
    }
    file.write_all_at(&HEADER, 0)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(file)
}

fn open_or_create(path: &Path) -> anyhow::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("create {}", directory.display()))?;
    }
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Renames a file, and replaces one that was set aside before.
fn set_aside(path: &Path) -> anyhow::Result<()> {
    let aside = aside(path);
    fs::rename(path, &aside).with_context(|| format!("rename {}", path.display()))?;
    warn!(
        "{} is no history of this version; it is now {}, and a new history begins",
        path.display(),
        aside.display()
    );
    Ok(())
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(file_name::ASIDE);
    PathBuf::from(aside)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
