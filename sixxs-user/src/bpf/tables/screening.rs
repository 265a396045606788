//! The outer packets to screen, and the counters of those that are forged.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use sixxs_common::{
    address::Address,
    screening::{Expected, ForgedCounters, LOCAL_END_BYTES, LocalEnd, Screen, VALID_NS},
};
use sixxs_core::enforce::{
    Enforcement,
    screening::{Encapsulation, OuterEnds},
};

use super::{Raw, Tables, on_all_cpus, reconcile, take};

/// A [`LocalEnd`] as a key.
type Key = [u8; LOCAL_END_BYTES];

/// An [`Expected`] as plain bytes, which can be compared.
type Value = [u8; size_of::<Expected>()];

/// The maps, with copies of the values last written.
pub(super) struct Screens {
    screen: Array<MapData, Raw<Screen>>,
    expected: HashMap<MapData, Key, Value>,
    ends: HashMap<MapData, [u8; 8], u32>,
    forged: PerCpuArray<MapData, Raw<ForgedCounters>>,
    valid: Array<MapData, u64>,
    /// The intended contents; `None` before the first write.
    intended: Option<Intended>,
}

/// The intended contents of the maps.
#[derive(Clone, PartialEq, Eq)]
struct Intended {
    screen: Screen,
    expected: BTreeMap<Key, Value>,
    /// 6in4 tunnels, by the broker's address and this host's.
    ends: BTreeMap<[u8; 8], u32>,
}

impl Screens {
    /// Takes the maps of the object.
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            screen: take(ebpf, "SCREEN")?.try_into()?,
            expected: take(ebpf, "EXPECTED")?.try_into()?,
            ends: take(ebpf, "ENDS")?.try_into()?,
            forged: take(ebpf, "FORGED")?.try_into()?,
            valid: take(ebpf, "VALID")?.try_into()?,
            intended: None,
        })
    }

    /// Resets the counters of a slot.
    pub(super) fn reset(&mut self, slot: u32) -> anyhow::Result<()> {
        self.forged
            .set(slot, on_all_cpus(ForgedCounters::default())?, 0)
            .context("reset counters")
    }

    /// Writes the record if it differs. Returns whether it did.
    fn write_screen(&mut self, intended: &Screen) -> anyhow::Result<bool> {
        let found = self.screen.get(&0, 0).context("read what is screened")?;
        if found.0 != *intended {
            self.screen
                .set(0, Raw(*intended), 0)
                .context("write what is screened")?;
        }
        Ok(found.0 != *intended)
    }
}

impl Tables {
    /// Writes what is screened; call it before programs are attached.
    pub(in crate::bpf) fn write_screening(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let mut intended = Intended {
            screen: Screen::EMPTY,
            expected: BTreeMap::new(),
            ends: BTreeMap::new(),
        };
        for (name, ends) in &wanted.screening.ends {
            let (end, expected) = entry(ends, self.slot(name)?, wanted);
            match ends.by {
                Encapsulation::SixInFour => {
                    let (broker, local) = (ends.broker.octets(), ends.local.octets());
                    let [b0, b1, b2, b3] = broker;
                    let [l0, l1, l2, l3] = local;
                    let addresses = [b0, b1, b2, b3, l0, l1, l2, l3];
                    intended.screen.add(addresses, expected.slot);
                    intended.ends.insert(addresses, expected.slot);
                    let any = [b0, b1, b2, b3, 0, 0, 0, 0];
                    intended.ends.insert(any, expected.slot);
                }
                Encapsulation::Ayiya { .. } => intended.screen.add_port(end.port),
            }
            // With protocol 41, forged packets count for the first of several tunnels.
            let entry = intended.expected.entry(bytemuck::cast(end));
            entry.or_insert_with(|| bytemuck::cast(expected));
        }
        if self.screens.intended.as_ref() != Some(&intended) {
            // An expectation makes strangers of all unknown brokers, so it is the first to go and the last to come.
            if let Some(before) = &self.screens.intended {
                let mut kept = before.expected.clone();
                kept.retain(|end, expected| intended.expected.get(end) == Some(expected));
                reconcile(&mut self.screens.expected, &kept)?;
            }
            reconcile(&mut self.screens.ends, &intended.ends)?;
            self.screens.write_screen(&intended.screen)?;
            reconcile(&mut self.screens.expected, &intended.expected)?;
            self.screens.intended = Some(intended);
        }
        self.confirm_screening()
    }

    /// Confirms that what is screened is up to date.
    fn confirm_screening(&mut self) -> anyhow::Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
        let now_ns = u64::try_from(Duration::from(now).as_nanos())?;
        let until_ns = now_ns.saturating_add(VALID_NS);
        let written = self.screens.valid.set(0, until_ns, 0);
        written.context("confirm what is screened")
    }

    /// Restores the expectations that other software changed.
    pub(super) fn restore_expected(&mut self) -> anyhow::Result<bool> {
        match self.screens.intended.clone() {
            Some(intended) => reconcile(&mut self.screens.expected, &intended.expected),
            None => Ok(false),
        }
    }

    /// Restores the 6in4 tunnels that other software changed.
    pub(super) fn restore_ends(&mut self) -> anyhow::Result<bool> {
        match self.screens.intended.clone() {
            Some(intended) => reconcile(&mut self.screens.ends, &intended.ends),
            None => Ok(false),
        }
    }

    /// Restores the record that selects packets, if other software changed it.
    pub(super) fn restore_screen(&mut self) -> anyhow::Result<bool> {
        match self.screens.intended.clone() {
            Some(intended) => self.screens.write_screen(&intended.screen),
            None => Ok(false),
        }
    }

    /// The forged packets for a tunnel, summed over all CPUs.
    pub(in crate::bpf) fn forged(&self, slot: u32) -> anyhow::Result<ForgedCounters> {
        let values = self.screens.forged.get(&slot, 0);
        let values = values.context("read the counters of forged packets")?;
        let mut sum = ForgedCounters::default();
        for value in values.iter() {
            for (sum, count) in sum.iter_mut().zip(value.0) {
                *sum = sum.wrapping_add(count);
            }
        }
        Ok(sum)
    }
}

/// The entry for the ends of the tunnel in `slot`.
fn entry(ends: &OuterEnds, slot: u32, wanted: &Enforcement) -> (LocalEnd, Expected) {
    let local = ends.local.octets();
    let base = Expected {
        slot,
        broker: ends.broker.octets(),
        checks_time: wanted.screening.checks_time.into(),
        is_shared: wanted.screening.passes_strangers.into(),
        ..Expected::default()
    };
    match ends.by {
        // The address may have several tunnels, so no broker is in the entry.
        Encapsulation::SixInFour => {
            let expected = Expected {
                broker: [0; 4],
                ..base
            };
            (LocalEnd::six_in_four(local), expected)
        }
        Encapsulation::Ayiya { port, identity } => {
            let expected = Expected {
                identity: Address::from_octets(identity.octets()),
                ..base
            };
            (LocalEnd::ayiya(local, port.to_be_bytes()), expected)
        }
    }
}
