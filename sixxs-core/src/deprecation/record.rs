//! The record of deprecated addresses, and its file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv6Addr,
    time::Duration,
};

use super::{Lifetime, ListedAddress};
use crate::{
    state_file::{Damaged, Frame},
    types::{IfIndex, IfName},
};

/// Lifetimes of an address before sixxs deprecated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// How long it was preferred.
    pub preferred: Lifetime,
    /// How long it was valid.
    pub valid: Lifetime,
    /// The time of that, since boot.
    pub at: Duration,
}

impl Former {
    /// What would be left of the preferred lifetime. `valid` is the present valid lifetime, which the kernel has counted
    /// down since; if it has no end, the clock gives the time that has passed.
    #[must_use]
    pub fn preferred_now(&self, valid: Lifetime, now: Duration) -> Lifetime {
        let left = match (self.preferred, self.valid, valid) {
            (Lifetime::Seconds(preferred), Lifetime::Seconds(before), Lifetime::Seconds(left)) => {
                Lifetime::Seconds(preferred.saturating_sub(before.saturating_sub(left)))
            }
            (preferred, _, _) => preferred.after(now.saturating_sub(self.at)),
        };
        left.min(valid)
    }
}

/// An address that sixxs has deprecated, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The link that it belongs to.
    pub tunnel: IfName,
    /// When the address was made.
    pub created: u32,
    /// When sixxs has deprecated it; `None`: the kernel has not confirmed it yet.
    pub changed: Option<u32>,
    /// Its lifetimes before that.
    pub former: Former,
    /// Whether the last list of addresses lacked it. A list may lack an address while others change.
    pub(super) is_missing: bool,
}

impl Entry {
    /// For an address that is about to be deprecated.
    pub(super) const fn new(tunnel: IfName, address: &ListedAddress, now: Duration) -> Self {
        Self {
            tunnel,
            created: address.created,
            changed: None,
            former: Former {
                preferred: address.preferred,
                valid: address.valid,
                at: now,
            },
            is_missing: false,
        }
    }

    /// Whether sixxs has set the lifetimes of an address that is deprecated now. Without a confirmation of the kernel,
    /// the process has ended in between.
    pub(super) fn is_of_sixxs(&self, address: &ListedAddress) -> bool {
        self.changed
            .is_none_or(|changed| changed == address.changed)
    }
}

/// All addresses that sixxs has deprecated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<(IfIndex, Ipv6Addr), Entry>);

const FRAME: Frame = Frame {
    comment: "# Addresses that sixxs has deprecated, with their former lifetimes.",
    version: "sixxs-deprecated 1",
};

/// The word for a value that is not known.
const UNKNOWN: &str = "-";

impl Record {
    /// Whether no address is deprecated by sixxs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The links that have a deprecated address.
    pub fn tunnels(&self) -> impl Iterator<Item = &IfName> {
        self.0.values().map(|entry| &entry.tunnel)
    }

    /// The deprecated addresses of a link.
    pub fn of_tunnel(&self, name: &IfName) -> impl Iterator<Item = Ipv6Addr> {
        let its = self
            .0
            .iter()
            .filter(move |(_, entry)| entry.tunnel == *name);
        its.map(|((_, address), _)| *address)
    }

    /// The entry of an address.
    pub(super) fn of(&self, address: &ListedAddress) -> Option<&Entry> {
        let entry = self.0.get(&address.key())?;
        (entry.created == address.created).then_some(entry)
    }

    pub(super) fn insert(&mut self, address: &ListedAddress, entry: Entry) {
        self.0.insert(address.key(), entry);
    }

    /// Forgets an address that was not deprecated after all.
    pub fn forget(&mut self, address: &ListedAddress) {
        self.0.remove(&address.key());
    }

    /// The entries of addresses that a list lacks for the first time.
    pub(super) fn unlisted(&self, listed: &[ListedAddress]) -> Self {
        let listed: BTreeSet<_> = listed.iter().map(ListedAddress::key).collect();
        let unlisted = self.0.iter().filter(|(key, _)| !listed.contains(*key));
        let lacks_for_the_first_time = unlisted.filter(|(_, entry)| !entry.is_missing);
        let marked = lacks_for_the_first_time.map(|(key, entry)| {
            let entry = Entry {
                is_missing: true,
                ..entry.clone()
            };
            (*key, entry)
        });
        Self(marked.collect())
    }

    /// Reads the file.
    pub fn read(file: &[u8]) -> Result<Self, Damaged> {
        let mut record = Self::default();
        for (line, text) in FRAME.lines(file)? {
            let expected = "an address with its link, lifetimes and times";
            let (key, entry) = entry(text).ok_or(Damaged { line, expected })?;
            record.0.insert(key, entry);
        }
        Ok(record)
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for ((index, address), entry) in &self.0 {
            let Entry {
                tunnel,
                created,
                changed,
                former,
                is_missing: _,
            } = entry;
            let changed = changed.map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string());
            let [preferred, valid] = [former.preferred, former.valid].map(Lifetime::to_kernel);
            let at = former.at.as_secs();
            // Writing into a String does not fail.
            let _infallible = writeln!(
                text,
                "{index} {address} {tunnel} {created} {changed} {preferred} {valid} {at}"
            );
        }
        FRAME.text(&text)
    }
}

/// The entry in a line.
fn entry(line: &str) -> Option<((IfIndex, Ipv6Addr), Entry)> {
    let words: Vec<&str> = line.split(' ').collect();
    let [
        index,
        address,
        tunnel,
        created,
        changed,
        preferred,
        valid,
        at,
    ] = words[..]
    else {
        return None;
    };
    let lifetime = |word: &str| word.parse().ok().map(Lifetime::from_kernel);
    let changed = match changed {
        UNKNOWN => None,
        time => Some(time.parse().ok()?),
    };
    let entry = Entry {
        tunnel: tunnel.parse().ok()?,
        created: created.parse().ok()?,
        changed,
        former: Former {
            preferred: lifetime(preferred)?,
            valid: lifetime(valid)?,
            at: Duration::from_secs(at.parse().ok()?),
        },
        is_missing: false,
    };
    Some(((IfIndex(index.parse().ok()?), address.parse().ok()?), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        let entry = |tunnel: &str, changed| Entry {
            tunnel: tunnel.parse().unwrap(),
            created: 4711,
            changed,
            former: Former {
                preferred: Lifetime::Seconds(300),
                valid: Lifetime::Forever,
                at: Duration::from_secs(77),
            },
            is_missing: false,
        };
        let key = |index, address: &str| (IfIndex(index), address.parse().unwrap());
        Record(BTreeMap::from([
            (key(3, "2001:db8:a::2"), entry("dsl0", Some(5000))),
            (key(4, "2001:db8:b::2"), entry("ppp*", None)),
        ]))
    }

    #[test]
    fn the_file_has_everything() {
        let record = example();
        let text = record.text();
        assert_eq!(
            text,
            "# Addresses that sixxs has deprecated, with their former lifetimes.\n\
             sixxs-deprecated 1\n\
             3 2001:db8:a::2 dsl0 4711 5000 300 4294967295 77\n\
             4 2001:db8:b::2 ppp* 4711 - 300 4294967295 77\n\
             end 5\n"
        );
        assert_eq!(Record::read(text.as_bytes()), Ok(record));
        let empty = Record::default();
        assert_eq!(Record::read(empty.text().as_bytes()), Ok(empty));
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let text = example().text();
        let line = |file: &[u8]| Record::read(file).map_err(|damaged| damaged.line);
        assert_eq!(line(b"\xff"), Err(1));
        assert_eq!(line(b""), Err(1));
        assert_eq!(line(&text.as_bytes()[..text.len() - 1]), Err(5));
        assert_eq!(line(text.replace("end 5", "end 6").as_bytes()), Err(5));
        assert_eq!(line(text.replace("ated 1", "ated 2").as_bytes()), Err(2));
        assert_eq!(line(text.replace("4711 5000", "4711").as_bytes()), Err(3));
        assert_eq!(line(text.replace(" - ", " x ").as_bytes()), Err(4));
    }

    #[test]
    fn the_preferred_lifetime_goes_on_while_it_is_zero() {
        use Lifetime::{Forever, Seconds};
        for (preferred, before, left, passed, expected) in [
            (Forever, Forever, Forever, 50, Forever),
            (Seconds(300), Forever, Forever, 50, Seconds(250)),
            (Seconds(300), Forever, Forever, 300, Seconds(0)),
            // The kernel has counted 40 s, whatever the clock shows.
            (Seconds(300), Seconds(600), Seconds(560), 50, Seconds(260)),
            (Seconds(300), Seconds(600), Seconds(200), 50, Seconds(0)),
            (Seconds(300), Seconds(300), Seconds(100), 50, Seconds(100)),
            // The clock of another boot.
            (Seconds(300), Forever, Forever, -50, Seconds(300)),
        ] {
            let former = Former {
                preferred,
                valid: before,
                at: Duration::from_secs(1000),
            };
            let now = Duration::from_secs(1000_u64.saturating_add_signed(passed));
            assert_eq!(former.preferred_now(left, now), expected, "{former:?}");
        }
    }
}
