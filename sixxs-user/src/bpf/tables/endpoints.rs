//! The endpoints of tunnels, and the counters of their outer packets.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use sixxs_common::{
    address::Address,
    endpoint::{ENDPOINT_BYTES, Endpoint, EndpointFilter, OuterCounters},
};
use sixxs_core::enforce::Enforcement;

use super::{Raw, Tables, on_all_cpus, reconcile, take};

/// An [`Endpoint`] as a key.
type Key = [u8; ENDPOINT_BYTES];

/// The maps, with copies of the values last written.
pub(super) struct Endpoints {
    slots: HashMap<MapData, Key, u32>,
    filter: Array<MapData, Raw<EndpointFilter>>,
    counters: PerCpuArray<MapData, Raw<OuterCounters>>,
    /// The intended contents; `None` before the first write.
    intended: Option<Intended>,
}

/// The intended contents of the maps.
#[derive(Clone, PartialEq, Eq)]
struct Intended {
    slots: BTreeMap<Key, u32>,
    /// The addresses of the endpoints, and of the brokers whose packets the programs carry.
    filter: EndpointFilter,
}

impl Endpoints {
    /// Takes the maps of the object.
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            slots: take(ebpf, "ENDPOINTS")?.try_into()?,
            filter: take(ebpf, "ENDPOINT_FILTER")?.try_into()?,
            counters: take(ebpf, "OUTER_COUNTERS")?.try_into()?,
            intended: None,
        })
    }

    /// Resets the counters of a slot.
    pub(super) fn reset(&mut self, slot: u32) -> anyhow::Result<()> {
        self.counters
            .set(slot, on_all_cpus(OuterCounters::default())?, 0)
            .context("reset counters")
    }

    /// Writes the filter if it differs. Returns whether it did.
    fn write_filter(&mut self, intended: &EndpointFilter) -> anyhow::Result<bool> {
        let found = self.filter.get(&0, 0).context("read the endpoint filter")?;
        if found.0 != *intended {
            self.filter
                .set(0, Raw(*intended), 0)
                .context("write the endpoint filter")?;
        }
        Ok(found.0 != *intended)
    }
}

impl Tables {
    /// Writes the endpoints; call it before programs are attached.
    pub(in crate::bpf) fn write_endpoints(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let mut intended = Intended {
            slots: BTreeMap::new(),
            filter: EndpointFilter::EMPTY,
        };
        for (endpoint, name) in &wanted.endpoints {
            let endpoint = Endpoint::from(*endpoint);
            intended.filter.add(endpoint.remote);
            intended
                .slots
                .insert(bytemuck::cast(endpoint), self.slot(name)?);
        }
        for path in wanted.outer_paths.values() {
            let broker = Address::from_ipv4(path.remote.octets());
            intended.filter.add(broker);
        }
        if self.endpoints.intended.as_ref() != Some(&intended) {
            // Packets of brokers pass the filter before they are delivered.
            self.endpoints.write_filter(&intended.filter)?;
            reconcile(&mut self.endpoints.slots, &intended.slots)?;
            self.endpoints.intended = Some(intended);
        }
        Ok(())
    }

    /// Restores the endpoints that other software changed.
    pub(super) fn restore_endpoints(&mut self) -> anyhow::Result<bool> {
        let Some(intended) = self.endpoints.intended.clone() else {
            return Ok(false);
        };
        reconcile(&mut self.endpoints.slots, &intended.slots)
    }

    /// Restores the filter of endpoints, if other software changed it.
    pub(super) fn restore_endpoint_filter(&mut self) -> anyhow::Result<bool> {
        let Some(intended) = self.endpoints.intended.clone() else {
            return Ok(false);
        };
        self.endpoints.write_filter(&intended.filter)
    }

    /// The outer packets of a tunnel, summed over all CPUs.
    pub(in crate::bpf) fn outer_counters(&self, slot: u32) -> anyhow::Result<OuterCounters> {
        let values = self.endpoints.counters.get(&slot, 0);
        let values = values.context("read the counters of outer packets")?;
        Ok(OuterCounters::combined(values.iter().map(|value| value.0)))
    }
}
