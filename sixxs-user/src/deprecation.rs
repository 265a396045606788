//! Deprecates the addresses of links that fail, and restores their lifetimes: carries out what [`sixxs_core::deprecation`]
//! decides.
//!
//! The record of deprecated addresses is the file `RUN_DIR/deprecated`. It is written before an address is deprecated, so
//! that the next daemon and `sixxs down` restore the lifetimes after a crash. A reboot removes the addresses, and so the
//! file need not survive one.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sixxs_core::{
    deprecation::{Change, Decision, FailingSources, Record, Step, decide},
    types::IfIndex,
};
use tracing::{debug, warn};

use crate::{host::clock::Clock, host::files, netlink::Netlink};

/// Many times the size of a normal file. An address takes some 80 bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// A pass confirms the changes of the one before, and finds addresses that other software has changed in between.
const PASSES: usize = 3;

/// The deprecated addresses, and their file.
#[derive(Debug)]
pub(crate) struct Deprecations {
    file: PathBuf,
    record: Record,
    /// The text of the file; `None`: there is no file.
    saved: Option<String>,
}

/// An address, and its interface.
type Key = (IfIndex, Ipv6Addr);

const fn key(step: &Step) -> Key {
    (step.address.index, step.address.address)
}

/// The result of a round.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Changes of addresses.
    pub(crate) done: Vec<Step>,
    /// Errors, as messages.
    pub(crate) problems: Vec<String>,
}

impl Deprecations {
    /// Those that an earlier run has left.
    pub(crate) fn load(run_dir: &Path) -> Self {
        let file = file(run_dir);
        let (record, saved) = read(&file).unwrap_or_else(|error| {
            warn!(
                "{}: {error:#}; addresses that an earlier run has deprecated stay deprecated",
                file.display()
            );
            (Record::default(), None)
        });
        Self {
            file,
            record,
            saved,
        }
    }

    /// The deprecated addresses.
    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    /// Deprecates the addresses of failing links, and restores the lifetimes of all others.
    pub(crate) async fn carry_out(
        &mut self,
        netlink: &Netlink,
        failing: &FailingSources,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut refused = BTreeSet::new();
        for _ in 0..PASSES {
            if failing.is_empty() && self.record.is_empty() {
                break;
            }
            let listed = match netlink.listed_addresses().await {
                Ok(listed) => listed,
                Err(error) => {
                    outcome.problems.push(format!("{error:#}"));
                    break;
                }
            };
            let now = Clock::default().now().elapsed;
            let decision = decide(&self.record, &listed, failing, now);
            let steps = self.adopt(decision, &refused, &mut outcome.problems);
            if steps.is_empty() {
                break;
            }
            for step in steps {
                let set = netlink.set_preferred(&step.address, step.preferred).await;
                if !matches!(set, Ok(true)) {
                    self.forget_unless_restored(&step);
                }
                match set {
                    Ok(true) => outcome.done.push(step),
                    Ok(false) => debug!("{step}: it has changed meanwhile"),
                    Err(error) => {
                        outcome.problems.push(format!("{step}: {error:#}"));
                        refused.insert(key(&step));
                    }
                }
            }
        }
        outcome.problems.dedup();
        outcome
    }

    /// Restores the lifetimes of all addresses.
    pub(crate) async fn undo(&mut self, netlink: &Netlink) -> Outcome {
        self.carry_out(netlink, &FailingSources::default()).await
    }

    /// Saves the record of a decision. Returns the steps to carry out: without those that were `refused` before, and without a
    /// record on disk only those that restore a lifetime, since nobody would undo the others after a crash.
    fn adopt(
        &mut self,
        decision: Decision,
        refused: &BTreeSet<Key>,
        problems: &mut Vec<String>,
    ) -> Vec<Step> {
        let Decision { record, mut steps } = decision;
        self.record = record;
        steps.retain(|step| {
            let is_refused = refused.contains(&key(step));
            if is_refused {
                self.forget_unless_restored(step);
            }
            !is_refused
        });
        if let Err(error) = self.save() {
            problems.push(format!("{error:#}"));
            for step in &steps {
                self.forget_unless_restored(step);
            }
            steps.retain(|step| step.change == Change::Restore);
        }
        steps
    }

    /// An address that is not deprecated after all is not in the record.
    fn forget_unless_restored(&mut self, step: &Step) {
        if step.change != Change::Restore {
            self.record.forget(&step.address);
        }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let text = (!self.record.is_empty()).then(|| self.record.text());
        if text != self.saved {
            match &text {
                Some(text) => replace(&self.file, text)?,
                None => files::remove_if_exists(&self.file)?,
            }
            self.saved = text;
        }
        Ok(())
    }
}

/// Restores the lifetimes of all addresses that any run has deprecated, and removes the record.
pub(crate) async fn undo_all(netlink: &Netlink, run_dir: &Path) -> anyhow::Result<()> {
    let outcome = Deprecations::load(run_dir).undo(netlink).await;
    anyhow::ensure!(outcome.problems.is_empty(), outcome.problems.join("; "));
    files::remove_if_exists(&file(run_dir))
}

fn file(run_dir: &Path) -> PathBuf {
    run_dir.join("deprecated")
}

fn read(file: &Path) -> anyhow::Result<(Record, Option<String>)> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Record::default(), None));
        }
        Err(error) => return Err(error).context("read it"),
    };
    anyhow::ensure!(text.len() <= MAX_BYTES, "it is too long");
    let record = Record::read(text.as_bytes())?;
    Ok((record, Some(text)))
}

fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || format!("write {}", file.display());
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).with_context(write)?;
    }
    let draft = file.with_extension("new");
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, file));
    files::remove_draft_on_error(&draft, written).with_context(write)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sixxs_core::{
        config,
        deprecation::{Lifetime, ListedAddress},
        link::{Link, Links},
        types::Mtu,
    };

    use super::*;

    const ADDRESS: ListedAddress = ListedAddress {
        index: IfIndex(3),
        address: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2),
        preferred: Lifetime::Forever,
        valid: Lifetime::Forever,
        created: 1,
        changed: 1,
        is_usable: true,
        is_temporary: false,
    };

    /// A decision that deprecates an address.
    fn decision() -> Decision {
        let text = "[[link]]\nname = \"dsl0\"\nkind = \"interface\"\naddress = \"2001:db8:a::2\"\n\
                    deprecate_when_failing = true\n";
        let config = config::parse("f", text).unwrap();
        let link = Link::up(IfIndex(3), "dsl0".parse().unwrap(), Mtu(1500));
        let links: Links = [link].into_iter().collect();
        let failing = FailingSources::of(&config, &links, |_| true);
        decide(&Record::default(), &[ADDRESS], &failing, Duration::ZERO)
    }

    #[test]
    fn a_record_is_saved_before_the_change_and_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("not/yet");
        let (none, mut problems) = (BTreeSet::new(), Vec::new());
        let mut first = Deprecations::load(&run_dir);
        assert!(first.record().is_empty());
        assert_eq!(first.adopt(decision(), &none, &mut problems).len(), 1);
        let mut second = Deprecations::load(&run_dir);
        assert_eq!(second.record(), first.record());
        // Without an address there is no file.
        assert_eq!(second.adopt(Decision::default(), &none, &mut problems), []);
        assert!(!file(&run_dir).exists() && problems.is_empty());
        let names: Vec<_> = fs::read_dir(&run_dir).unwrap().collect();
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn an_address_without_a_record_is_not_deprecated() {
        let directory = tempfile::tempdir().unwrap();
        let no_directory = directory.path().join("file");
        fs::write(&no_directory, "").unwrap();
        let mut deprecations = Deprecations::load(&no_directory.join("run"));
        let mut problems = Vec::new();
        let steps = deprecations.adopt(decision(), &BTreeSet::new(), &mut problems);
        assert_eq!(steps, []);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(deprecations.record().is_empty());
    }

    #[test]
    fn a_refused_address_is_not_in_the_record() {
        let directory = tempfile::tempdir().unwrap();
        let mut deprecations = Deprecations::load(directory.path());
        let (refused, mut problems) = ([key(&decision().steps[0])].into(), Vec::new());
        assert_eq!(deprecations.adopt(decision(), &refused, &mut problems), []);
        assert!(deprecations.record().is_empty() && problems.is_empty());
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(file(directory.path()), "nonsense").unwrap();
        assert!(Deprecations::load(directory.path()).record().is_empty());
    }
}
