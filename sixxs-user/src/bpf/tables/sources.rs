//! Writes the source addresses of tunnels, in an order in which the programs decide correctly after each step.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use aya::maps::lpm_trie::Key;
use sixxs_common::{
    address::{Address, Prefix},
    layout::{self, FEW_SOURCES, FewSource, SourceTable},
};
use sixxs_core::{
    enforce::{Enforcement, Source},
    types::Prefix as CorePrefix,
};

use super::{Raw, Tables, insert::insert, tolerate_missing};

/// Sources and direct destinations in the maps.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) sources: BTreeMap<(u8, [u8; 16]), layout::Source>,
    pub(super) directs: BTreeSet<(u32, [u8; 20])>,
}

impl Tables {
    /// Writes the sources and direct destinations.
    pub(super) fn write_sources(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let mut next = Written {
            sources: BTreeMap::new(),
            directs: BTreeSet::new(),
        };
        for source in &wanted.sources {
            let key = (source.prefix.bits(), source.prefix.address().octets());
            next.sources.insert(key, self.source_entry(source)?);
        }
        for (name, destination) in &wanted.directs {
            let address = Address::from_octets(destination.address().octets());
            let key = layout::direct_key(self.slot(name)?, address);
            let bits = layout::DIRECT_SLOT_BITS + u32::from(destination.bits());
            next.directs.insert((bits, key));
        }
        if self.written.as_ref() == Some(&next) {
            return Ok(());
        }
        let before = match self.written.take() {
            Some(before) => before,
            None => self.read_back()?,
        };
        // Direct destinations first: a new source must not leak to its own LAN. Add before remove: after
        // each step the programs decide correctly for every entry that stays.
        for (bits, key) in next.directs.difference(&before.directs) {
            insert(|| self.directs.insert(&Key::new(*bits, *key), 1, 0))
                .context("add a direct destination")?;
        }
        for ((bits, octets), entry) in &next.sources {
            if before.sources.get(&(*bits, *octets)) != Some(entry) {
                let key = Key::new(u32::from(*bits), *octets);
                insert(|| self.sources.insert(&key, Raw(*entry), 0)).context("add a source")?;
            }
        }
        self.switch_table(&wanted.sources)?;
        for (bits, octets) in before.sources.keys() {
            if !next.sources.contains_key(&(*bits, *octets)) {
                tolerate_missing(self.sources.remove(&Key::new(u32::from(*bits), *octets)))?;
            }
        }
        for (bits, key) in before.directs.difference(&next.directs) {
            tolerate_missing(self.directs.remove(&Key::new(*bits, *key)))?;
        }
        let prefixes = wanted.sources.iter().map(|source| to_common(source.prefix));
        self.filter.set(prefixes);
        self.invalidate_caches()?;
        self.written = Some(next);
        Ok(())
    }

    fn source_entry(&self, source: &Source) -> anyhow::Result<layout::Source> {
        Ok(source.entry(self.slot(&source.tunnel)?))
    }

    /// Writes the inactive table, and activates it.
    fn switch_table(&mut self, sources: &[Source]) -> anyhow::Result<()> {
        let mut table = SourceTable::EMPTY;
        table.common = common(sources);
        if sources.len() <= FEW_SOURCES {
            for (entry, source) in table.few.iter_mut().zip(sources) {
                *entry = FewSource {
                    prefix: to_common(source.prefix),
                    source: self.source_entry(source)?,
                };
                table.count += 1;
            }
        } else {
            table.count = layout::USE_TRIE;
        }
        let unused = 1 - self.current.table.min(1);
        self.few
            .set(unused, Raw(table), 0)
            .context("write the sources")?;
        self.in_use = table;
        self.current.table = unused;
        self.control
            .set(0, Raw(self.current), 0)
            .context("switch the sources")
    }

    /// Makes the programs look up the owners of addresses again.
    pub(in crate::bpf) fn invalidate_caches(&mut self) -> anyhow::Result<()> {
        self.current.generation += 1;
        self.filters
            .set(self.filter_index(), Raw(*self.filter), 0)
            .context("write the filter of the sources")?;
        // Write it to `control` before use, so that no later run uses this generation for other sources.
        self.control
            .set(0, Raw(self.current), 0)
            .context("write the sources' generation")?;
        for (index, entry) in &mut self.interface_entries {
            entry.generation = self.current.generation;
            self.interfaces
                .set(*index, Raw(*entry), 0)
                .context("write an interface's generation")?;
        }
        Ok(())
    }

    /// The index of the present filter.
    pub(super) fn filter_index(&self) -> u32 {
        u32::from(self.current.generation % 2 == 1)
    }

    /// The present contents of the maps, including changes by other software.
    pub(super) fn read_back(&self) -> anyhow::Result<Written> {
        let mut before = Written {
            sources: BTreeMap::new(),
            directs: BTreeSet::new(),
        };
        for entry in self.sources.iter() {
            let (key, entry) = entry.context("read the sources")?;
            let bits = u8::try_from(key.prefix_len()).unwrap_or(128);
            before.sources.insert((bits, key.data()), entry.0);
        }
        for key in self.directs.keys() {
            let key = key.context("read the direct destinations")?;
            before.directs.insert((key.prefix_len(), key.data()));
        }
        Ok(before)
    }
}

fn to_common(prefix: CorePrefix) -> Prefix {
    Prefix::new(
        Address::from_octets(prefix.address().octets()),
        prefix.bits(),
    )
}

/// The longest prefix that contains all sources.
fn common(sources: &[Source]) -> Prefix {
    let Some(first) = sources.first() else {
        return Prefix::NEVER;
    };
    let mut bits = 128;
    for source in sources {
        let differing = first.prefix.address().to_bits() ^ source.prefix.address().to_bits();
        let same = u8::try_from(differing.leading_zeros()).unwrap_or(128);
        bits = bits.min(same).min(source.prefix.bits());
    }
    to_common(CorePrefix::containing(first.prefix.address(), bits))
}
