//! The TIC parameters of tunnels, in `STATE_DIR/tic/NAME.toml`, so that a restart needs no connect. The files
//! contain passwords, so only root can read them.

use std::path::{Path, PathBuf};

use sixxs_core::{
    broker::tic::{
        Parameters,
        saved::{self, Query},
    },
    types::IfName,
};
use zeroize::Zeroizing;

use super::{blocking, durable};
use crate::host::files;

/// Many times the size of a normal file.
const MAX_BYTES: u64 = 64 * 1024;

/// The saved parameters. Only one process writes those of a tunnel.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in `state_dir`, which need not exist yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("tic"),
        }
    }

    /// The parameters of the tunnel `name`, if the request was the same as `query`. A file that cannot be read
    /// counts as missing; the log has the error.
    pub async fn load(&self, name: &IfName, query: &Query) -> Option<Parameters> {
        let file = self.file(name);
        let shown = file.display().to_string();
        let read = blocking(move || {
            let bytes = durable::read(&file, MAX_BYTES)?;
            let Some(bytes) = bytes.map(Zeroizing::new) else {
                return Ok(None);
            };
            Ok(Some(saved::read(str::from_utf8(&bytes)?)?))
        });
        match read.await {
            Ok(Some((there, parameters))) if there == *query => Some(parameters),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{shown}: {error:#}; the broker will be queried again");
                None
            }
        }
    }

    /// Saves parameters, and replaces earlier ones.
    pub async fn save(
        &self,
        name: &IfName,
        query: &Query,
        parameters: &Parameters,
    ) -> anyhow::Result<()> {
        let file = self.file(name);
        let directory = self.directory.clone();
        let text = saved::text(query, parameters);
        blocking(move || {
            durable::directory(&directory)?;
            durable::replace(&file, text.as_bytes())
        })
        .await
    }

    /// Removes the parameters of a tunnel, because the broker does not accept them any more.
    pub async fn remove(&self, name: &IfName) -> anyhow::Result<()> {
        let file = self.file(name);
        blocking(move || files::remove_if_exists(&file)).await
    }

    fn file(&self, name: &IfName) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

    use sixxs_core::{broker::tic::Kind, secret::Secret, types::Mtu};

    use super::*;

    fn example() -> (IfName, Query, Parameters) {
        let query = Query {
            server: "tic.example".parse().unwrap(),
            username: "ABC1-SIXXS".to_owned(),
            tunnel_id: None,
        };
        let parameters = Parameters {
            id: "T42".to_owned(),
            kind: Kind::Ayiya,
            address: "2001:db8:2ff:1::2/64".parse().unwrap(),
            peer: "2001:db8:2ff:1::1".parse().unwrap(),
            remote4: "198.51.100.1".parse().unwrap(),
            local4: None,
            password: Some(Secret::from("hartslag")),
            heartbeat_interval: Duration::from_secs(60),
            mtu: Mtu(1428),
            pop: "nlams01".to_owned(),
        };
        ("sixxs0".parse().unwrap(), query, parameters)
    }

    #[tokio::test]
    async fn saved_parameters_are_loaded_for_the_same_query() {
        let state = tempfile::tempdir().unwrap();
        let cache = Cache::new(&state.path().join("not/yet"));
        let (name, query, parameters) = example();
        assert_eq!(cache.load(&name, &query).await, None);
        cache.save(&name, &query, &parameters).await.unwrap();
        assert_eq!(cache.load(&name, &query).await, Some(parameters.clone()));
        let file = cache.file(&name);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let other = Query {
            tunnel_id: Some("T43".to_owned()),
            ..query.clone()
        };
        assert_eq!(cache.load(&name, &other).await, None);

        // A file that others can read is replaced by a private one.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        cache.save(&name, &other, &parameters).await.unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(cache.load(&name, &query).await, None);

        for damage in [&b"\xff"[..], b"", b"version = 9", &vec![b'#'; 100_000]] {
            fs::write(&file, damage).unwrap();
            assert_eq!(cache.load(&name, &other).await, None);
        }
        cache.remove(&name).await.unwrap();
        cache.remove(&name).await.unwrap();
        assert!(!file.exists());
    }
}
