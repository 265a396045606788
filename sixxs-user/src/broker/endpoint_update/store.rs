//! The records of endpoint updates, in `STATE_DIR/updates/NAME`, so that a restart sends nothing twice.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sixxs_core::{
    broker::{connects::Moment, endpoint_update::Record},
    config::EndpointUpdate,
    types::IfName,
};

use crate::broker::{blocking, durable};

/// Many times the size of a normal file.
const MAX_BYTES: u64 = 64 * 1024;

/// The records of all tunnels. Clones share them.
#[derive(Clone, Debug)]
pub struct UpdateStore {
    directory: PathBuf,
    /// A task that was ended may still be writing.
    writer: Arc<Mutex<()>>,
}

impl UpdateStore {
    /// The store in `state_dir`, which need not exist yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("updates"),
            writer: Arc::default(),
        }
    }

    /// The record of a tunnel. A file that cannot be read counts as missing; the log has the error.
    pub async fn load(&self, name: &IfName, settings: &EndpointUpdate, now: &Moment) -> Record {
        let file = self.file(name);
        let shown = file.display().to_string();
        let writer = Arc::clone(&self.writer);
        let read = blocking(move || {
            let _writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            durable::read(&file, MAX_BYTES)
        });
        let record = match read.await {
            Ok(None) => return Record::new(settings, now),
            Ok(Some(bytes)) => {
                Record::read(&bytes, settings, now).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("{error:#}")),
        };
        record.unwrap_or_else(|error| {
            tracing::warn!("{shown}: {error}; the broker gets the address again");
            Record::new(settings, now)
        })
    }

    /// Saves the record of a tunnel; it is on disk when this returns.
    pub(super) async fn save(
        &self,
        name: &IfName,
        record: &Record,
        now: &Moment,
    ) -> anyhow::Result<()> {
        let file = self.file(name);
        let directory = self.directory.clone();
        let writer = Arc::clone(&self.writer);
        let text = record.text(now.since_boot);
        blocking(move || {
            let _writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            durable::directory(&directory)?;
            durable::replace(&file, text.as_bytes())
        })
        .await
    }

    fn file(&self, name: &IfName) -> PathBuf {
        self.directory.join(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, time::Duration};

    use sixxs_core::{
        broker::endpoint_update::{EndpointUpdate as Machine, Outcome, SETTLE_TIME, Subject},
        config::Url,
        secret::Secret,
    };

    use super::*;

    #[tokio::test]
    async fn a_record_is_loaded_for_the_same_tunnel() {
        let state = tempfile::tempdir().unwrap();
        let store = UpdateStore::new(&state.path().join("not/yet"));
        let name: IfName = "sixxs0".parse().unwrap();
        let settings = |hostname: &str| EndpointUpdate {
            url: Url::parse("https://broker.example/nic/update").unwrap(),
            user: "me".to_owned(),
            password: Secret::from("geheim"),
            hostname: hostname.to_owned(),
            ca: None,
            remote: Ipv4Addr::new(198, 51, 100, 1),
            local4: None,
        };
        let moment = |seconds| Moment {
            boot: "boot".parse().unwrap(),
            since_boot: Duration::from_secs(seconds),
        };
        let empty = store.load(&name, &settings("1"), &moment(1)).await;
        assert!(!empty.has_accepted());
        let mut machine = Machine::new(empty);
        let subject = Subject::Public(Ipv4Addr::new(192, 0, 2, 1));
        machine.observe(Ok::<_, String>(subject), Duration::from_secs(1));
        let now = moment(1).since_boot + SETTLE_TIME;
        machine.begin(subject, now);
        machine.end(Outcome::Accepted { address: None }, None, now);
        store
            .save(&name, machine.record(), &moment(2))
            .await
            .unwrap();
        let same = store.load(&name, &settings("1"), &moment(3)).await;
        assert!(same.has_accepted());
        let other = store.load(&name, &settings("2"), &moment(3)).await;
        assert!(!other.has_accepted());
        let file = store.file(&name);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for damage in [&b"\xff"[..], b"", &vec![b'#'; 100_000]] {
            fs::write(&file, damage).unwrap();
            let read = store.load(&name, &settings("1"), &moment(3)).await;
            assert!(!read.has_accepted());
        }
    }
}
