//! Reads the configuration file.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use sixxs_core::{
    aiccu,
    config::{self, Config, Invalid},
};
use zeroize::Zeroizing;

/// The file is not to be had, or wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{file}: {error}; expected a configuration there, or --config FILE")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// Others can read it, which they must not.
    #[error("{file}: it has secrets in it and everybody can read it; run `chmod o= {file}`")]
    Exposed {
        /// Its path.
        file: String,
    },
    /// It is wrong; names file, lines, keys and what was expected.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// No configuration is larger; more is a mistake, or an attack.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Of a file's mode.
const OTHERS_MAY_READ: u32 = 0o004;

/// Reads it, and the files that it refers to.
pub fn read(path: &Path) -> Result<Config, Error> {
    let config = read_any(path)?;
    Ok(config.with_tunnels(&path.display().to_string())?)
}

/// As [`read`]; it may have no tunnels.
fn read_any(path: &Path) -> Result<Config, Error> {
    let file = path.display().to_string();
    let unreadable = |error| Error::Unreadable {
        file: file.clone(),
        error,
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let size = metadata.len();
    if size > MAX_BYTES {
        return Err(unreadable(io::Error::other(format!(
            "{size} bytes are too many"
        ))));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    let config = config::parse_with(&file, &text, &read_secret)?;
    if config.has_secrets() && is_exposed(&metadata) {
        return Err(Error::Exposed { file });
    }
    Ok(config)
}

/// Reads it if it is there, with or without tunnels; else everything is as it is unless told
/// otherwise.
pub fn read_or_default(path: &Path) -> Result<Config, Error> {
    match read_any(path) {
        Err(Error::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        outcome => outcome,
    }
}

/// Reads a file with passwords in it, or says why not.
pub fn read_secret(path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if is_exposed(&metadata) {
            return Err(io::Error::other(format!(
                "it has a password in it and everybody can read it; run `chmod o= {path}`"
            )));
        }
        // Never made larger, which would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(aiccu::MAX_BYTES + 1));
        let most = aiccu::MAX_BYTES as u64 + 1;
        io::Read::by_ref(&mut file)
            .take(most)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| format!("{path}: {error}"))
}

fn is_exposed(metadata: &Metadata) -> bool {
    metadata.mode() & OTHERS_MAY_READ != 0
}
