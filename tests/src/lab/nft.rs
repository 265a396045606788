//! The counters of routers: loads nftables rule sets with named counters, and reads them.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::netns::Namespace;
use crate::shell;

/// Packets per named counter of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Packets of a counter; an error if no rule set declares this name. A packet that is still to be
    /// segmented counts as one.
    pub fn get(&self, name: &str) -> Result<u64> {
        let packets = self.0.get(name).copied();
        packets.with_context(|| format!("no counter {name} in {self:?}"))
    }
}

/// Loads a rule set.
pub fn load(namespace: &Namespace, rule_set: &str) -> Result<()> {
    let mut nft = namespace.command("nft");
    shell::capture_with_input(nft.args(["-f", "-"]), rule_set)
        .with_context(|| format!("in network namespace {}", namespace.name()))?;
    Ok(())
}

/// Reads all named counters.
pub fn read(namespace: &Namespace) -> Result<Counters> {
    list(namespace.command("nft").args(["-j", "list", "counters"]))
}

fn list(nft: &mut Command) -> Result<Counters> {
    let listed: Value = serde_json::from_str(&shell::capture(nft)?).context("read nft's JSON")?;
    let objects = listed["nftables"]
        .as_array()
        .context("no nftables array in nft's JSON")?;
    let counters = objects
        .iter()
        .filter_map(|o| o.get("counter"))
        .map(|counter| {
            let name = counter["name"]
                .as_str()
                .context("a counter without a name")?;
            let packets = counter["packets"]
                .as_u64()
                .context("a counter without packets")?;
            Ok((name.to_owned(), packets))
        });
    Ok(Counters(counters.collect::<Result<_>>()?))
}
