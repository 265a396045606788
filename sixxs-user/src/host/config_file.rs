//! Reads the configuration file.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use sixxs_core::{
    config::{self, Config},
    diagnostics::Invalid,
    wireguard::quick_file,
};
use zeroize::Zeroizing;

/// The file cannot be read, or is invalid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{file}: {error}; {}", what_to_do(.error))]
    Unreadable {
        /// Its path.
        file: String,
        /// The error.
        error: io::Error,
    },
    /// It contains secrets, but its mode lets others read it.
    #[error("{file}: it contains secrets and every user can read it; run `chmod o= {file}`")]
    Exposed {
        /// Its path.
        file: String,
    },
    /// It is invalid; the message has file, lines, keys and the expected values.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A file that contains passwords or keys cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {error}{}", hint(.error))]
pub struct UnreadableSecret {
    file: String,
    error: io::Error,
}

impl Error {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root",
        _ => "expected a configuration there, or --config FILE",
    }
}

/// Maximum size of a configuration; a larger file is a mistake or an attack.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Maximum size of a file with passwords or keys: the longest of those that are read, the one of `wg-quick`.
const MAX_SECRET_BYTES: usize = quick_file::MAX_BYTES;

/// A bit of the file mode.
const OTHERS_MAY_READ: u32 = 0o004;

/// Reads the configuration, with the files that it refers to.
pub fn read(path: &Path) -> Result<Config, Error> {
    let (config, _) = read_any(path)?;
    Ok(config.with_tunnels(&path.display().to_string())?)
}

/// Like [`read`], and returns the file's text too.
pub fn read_text(path: &Path) -> Result<(Config, Zeroizing<String>), Error> {
    let (config, text) = read_any(path)?;
    Ok((config.with_tunnels(&path.display().to_string())?, text))
}

/// Parses a configuration, and reads the files that it refers to.
pub fn parse(file: &str, text: &str) -> Result<Config, Error> {
    let config = config::parse_with(file, text, &read_included)?;
    Ok(config.with_tunnels(file)?)
}

/// Like [`read`], but accepts a configuration without tunnels.
fn read_any(path: &Path) -> Result<(Config, Zeroizing<String>), Error> {
    let file = path.display().to_string();
    let unreadable = |error| Error::Unreadable {
        file: file.clone(),
        error,
    };
    let (bytes, metadata) = read_whole(path).map_err(unreadable)?;
    let text = config::text(&file, &bytes)?;
    let config = config::parse_with(&file, text, &read_included)?;
    if config.has_secrets() && is_exposed(&metadata) {
        return Err(Error::Exposed { file });
    }
    Ok((config, Zeroizing::new(text.to_owned())))
}

/// Reads the configuration, which may have no tunnels. If there is no file, returns the defaults.
pub fn read_or_default(path: &Path) -> Result<Config, Error> {
    match read_any(path) {
        Err(error) if error.is_missing() => Ok(Config::default()),
        outcome => outcome.map(|(config, _)| config),
    }
}

/// Reads a file that contains passwords or keys. A file that is too long is truncated, and its parser reports that.
pub fn read_secret(path: &str) -> Result<Zeroizing<Vec<u8>>, UnreadableSecret> {
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        let (file, metadata) = open(Path::new(path))?;
        if is_exposed(&metadata) {
            return Err(io::Error::other(format!(
                "it contains secrets and every user can read it; run `chmod o= {path}`"
            )));
        }
        read_at_most(MAX_SECRET_BYTES, &file, &metadata)
    };
    read().map_err(|error| UnreadableSecret {
        file: path.to_owned(),
        error,
    })
}

fn read_included(path: &str) -> Result<Zeroizing<Vec<u8>>, Box<dyn std::error::Error>> {
    Ok(read_secret(path)?)
}

/// Reads a regular file of at most `MAX_BYTES`.
pub(crate) fn read_whole(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    let (file, metadata) = open(path)?;
    let bytes = read_at_most(MAX_BYTES, &file, &metadata)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {MAX_BYTES} bytes"
        )));
    }
    Ok((bytes, metadata))
}

/// Opens a regular file. Refuses all others: reading a pipe may block, a device may be endless, and opening a
/// device may have side effects.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    expect_regular(&fs::metadata(path)?)?;
    // The path may point to another file by now.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    expect_regular(&metadata)?;
    Ok((file, metadata))
}

fn expect_regular(metadata: &Metadata) -> io::Result<()> {
    let found = metadata.file_type();
    let what = if found.is_file() {
        return Ok(());
    } else if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::other(format!(
        "it is {what}; name a regular file instead"
    )))
}

/// Reads at most `most + 1` bytes of a file, so that the caller can detect a longer one.
fn read_at_most(most: usize, file: &File, metadata: &Metadata) -> io::Result<Zeroizing<Vec<u8>>> {
    let expected = usize::try_from(metadata.len()).unwrap_or(most).min(most);
    // The buffer must not be reallocated, since that leaves copies of secrets. It has room unless the
    // file is growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What to do about an error, if the error does not include that.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root",
        _ => "",
    }
}

fn is_exposed(metadata: &Metadata) -> bool {
    metadata.mode() & OTHERS_MAY_READ != 0
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, sync::mpsc, thread, time::Duration};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// The error messages for a path as configuration and as account file, with a time limit.
    fn errors(path: &Path) -> [String; 2] {
        let (to, from) = mpsc::channel();
        let path = path.to_owned();
        thread::spawn(move || {
            let config = read(&path).unwrap_err().to_string();
            let account = read_secret(path.to_str().unwrap()).unwrap_err().to_string();
            to.send([config, account]).unwrap();
        });
        from.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (pipe.as_path(), "a pipe"),
            (&socket, "a socket"),
            (directory.path(), "a directory"),
            (Path::new("/tmp"), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            for error in errors(path) {
                let expected = format!("{}: it is {what}; name a regular file", path.display());
                assert!(error.starts_with(&expected), "{error}");
                assert!(!error.contains("chmod"), "{error}");
            }
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_completely() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let config = read(file.path()).unwrap_err().to_string();
        assert!(config.contains("more than 16777216 bytes"), "{config}");
        assert_eq!(
            read_secret(file.path().to_str().unwrap()).unwrap().len(),
            MAX_SECRET_BYTES + 1
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_named_by_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"on_leak = \"drop\"\n\n# caf\xe9\n").unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        let expected = format!("{}: line 3: not UTF-8", file.path().display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
