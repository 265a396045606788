//! Reads the maps back. They are pinned, so root can write to them, and the kernel sends no event for that.

use anyhow::Context as _;
use aya::maps::{MapError, lpm_trie::Key};
use sixxs_common::{echo::Times, layout};

use super::{
    HIGHEST_GENERATION, Raw, Tables, insert::insert, on_all_cpus, sources::Written,
    tolerate_missing, write_name,
};

impl Tables {
    /// Compares the maps with the values last written, and rewrites those that differ. Returns the names of
    /// these maps. Counters have no intended value and stay.
    pub(in crate::bpf) fn restore(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let mut restored = Vec::new();
        let Some(written) = self.written.clone() else {
            return Ok(restored);
        };
        restored.extend(self.restore_slots()?.then_some("SLOTS"));
        restored.extend(self.restore_times()?.then_some("TIMES"));
        restored.extend(self.restore_tunnels()?.then_some("TUNNELS"));
        restored.extend(self.restore_outers()?.then_some("OUTER_PATHS"));
        restored.extend(self.restore_outer_slots()?.then_some("SLOTS_BY_OUTER"));
        restored.extend(self.restore_endpoints()?.then_some("ENDPOINTS"));
        restored.extend(self.restore_endpoint_filter()?.then_some("ENDPOINT_FILTER"));
        restored.extend(self.restore_expected()?.then_some("EXPECTED"));
        restored.extend(self.restore_ends()?.then_some("ENDS"));
        restored.extend(self.restore_screen()?.then_some("SCREEN"));
        restored.extend(self.restore_interfaces()?.then_some("INTERFACES"));
        let before = restored.len();
        let found = self.read_back()?;
        restored.extend(self.restore_directs(&written, &found)?.then_some("DIRECTS"));
        restored.extend(self.restore_sources(&written, &found)?.then_some("SOURCES"));
        restored.extend(self.restore_table()?.then_some("FEW"));
        restored.extend(self.restore_filter()?.then_some("SOURCE_FILTERS"));
        restored.extend(self.restore_control()?.then_some("CONTROL"));
        if restored.len() > before {
            // The programs may have cached results from the wrong entries.
            self.invalidate_caches()?;
        }
        Ok(restored)
    }

    fn restore_slots(&mut self) -> anyhow::Result<bool> {
        let mut restored = false;
        for (name, slot) in &self.slots {
            let intended = write_name(name);
            let found = self.names.get(slot, 0).context("read a slot's name")?.0;
            if found != intended {
                self.names
                    .set(*slot, Raw(intended), 0)
                    .context("name a slot")?;
                restored = true;
            }
        }
        Ok(restored)
    }

    fn restore_times(&mut self) -> anyhow::Result<bool> {
        let mut restored = false;
        for slot in self.timed.clone() {
            match self.times.get(&slot, 0) {
                Ok(_) => {}
                Err(MapError::KeyNotFound) => {
                    insert(|| self.times.insert(slot, on_all_cpus(Times::NONE)?, 0))
                        .context("make room for the times of replies")?;
                    restored = true;
                }
                Err(error) => return Err(error).context("read the times of replies"),
            }
        }
        Ok(restored)
    }

    fn restore_tunnels(&mut self) -> anyhow::Result<bool> {
        let mut restored = false;
        for slot in 0..layout::SLOTS {
            let intended = self.tunnel_entries.get(&slot).copied().unwrap_or_default();
            if self.tunnels.get(&slot, 0).context("read a tunnel")?.0 != intended {
                self.tunnels
                    .set(slot, Raw(intended), 0)
                    .context("write a tunnel")?;
                restored = true;
            }
        }
        Ok(restored)
    }

    fn restore_interfaces(&mut self) -> anyhow::Result<bool> {
        let mut restored = false;
        for index in 0..layout::INTERFACES {
            let intended = self
                .interface_entries
                .get(&index)
                .copied()
                .unwrap_or_default();
            let found = self.interfaces.get(&index, 0);
            if found.context("read an interface")?.0 != intended {
                self.interfaces
                    .set(index, Raw(intended), 0)
                    .context("write an interface")?;
                restored = true;
            }
        }
        Ok(restored)
    }

    fn restore_directs(&mut self, intended: &Written, found: &Written) -> anyhow::Result<bool> {
        for (bits, key) in intended.directs.difference(&found.directs) {
            insert(|| self.directs.insert(&Key::new(*bits, *key), 1, 0))
                .context("add a direct destination")?;
        }
        for (bits, key) in found.directs.difference(&intended.directs) {
            tolerate_missing(self.directs.remove(&Key::new(*bits, *key)))?;
        }
        Ok(intended.directs != found.directs)
    }

    fn restore_sources(&mut self, intended: &Written, found: &Written) -> anyhow::Result<bool> {
        for ((bits, octets), entry) in &intended.sources {
            if found.sources.get(&(*bits, *octets)) != Some(entry) {
                let key = Key::new(u32::from(*bits), *octets);
                insert(|| self.sources.insert(&key, Raw(*entry), 0)).context("add a source")?;
            }
        }
        for (bits, octets) in found.sources.keys() {
            if !intended.sources.contains_key(&(*bits, *octets)) {
                tolerate_missing(self.sources.remove(&Key::new(u32::from(*bits), *octets)))?;
            }
        }
        Ok(intended.sources != found.sources)
    }

    fn restore_table(&mut self) -> anyhow::Result<bool> {
        let index = self.current.table;
        if self.few.get(&index, 0).context("read the sources")?.0 == self.in_use {
            return Ok(false);
        }
        self.few
            .set(index, Raw(self.in_use), 0)
            .context("write the sources")?;
        Ok(true)
    }

    /// The filter itself is written with the next generation.
    fn restore_filter(&self) -> anyhow::Result<bool> {
        let found = self.filters.get(&self.filter_index(), 0);
        let found = found.context("read the filter of the sources")?.0;
        Ok(found != *self.filter)
    }

    /// The entry itself is written with the next generation.
    fn restore_control(&mut self) -> anyhow::Result<bool> {
        let found = self.control.get(&0, 0).context("read the control entry")?.0;
        if found == self.current {
            return Ok(false);
        }
        let found = found.generation.min(HIGHEST_GENERATION);
        self.current.generation = self.current.generation.max(found);
        Ok(true)
    }
}
