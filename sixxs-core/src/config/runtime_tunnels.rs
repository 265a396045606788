//! Tunnels added at run time from an aiccu.conf.

use std::collections::BTreeSet;

use super::{
    Account, CarrierChoice, Config, Follows, Kind, RuleMode, SUBTREES_TABLE, Tunnel,
    cross_check::TUNNELS, table::table_of,
};
use crate::types::{IfName, TableId};

/// The reason why a tunnel cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another tunnel or a group has this name.
    #[error("there is a tunnel {0} already; choose another ipv6_interface")]
    Name(IfName),
    /// The name belongs to an uplink.
    #[error("{0} is an uplink; choose another ipv6_interface")]
    Uplink(IfName),
    /// Another tunnel has this routing table.
    #[error("table {0} belongs to {1}")]
    Table(TableId, IfName),
    /// The maximum number of tunnels is reached.
    #[error("there are {TUNNELS} tunnels already, which is the maximum")]
    TooMany,
}

impl Config {
    /// Adds the tunnel of an account, with a routing table that no other tunnel has. Returns the tunnel.
    pub fn add(&mut self, account: Account) -> Result<Tunnel, Refused> {
        let name = account.aiccu.interface.clone();
        self.has_room(&name)?;
        let tunnels = self.tunnels.iter().map(|tunnel| tunnel.table);
        let groups = self.groups.iter().map(|group| group.table);
        let taken: BTreeSet<_> = tunnels.chain(groups).collect();
        let table = match self.rule_mode {
            RuleMode::Rules => (0..)
                .map(|position| TableId(table_of(position)))
                .find(|table| !taken.contains(table)),
            RuleMode::Subtrees => Some(SUBTREES_TABLE),
        };
        let tunnel = Tunnel {
            name,
            addresses_by_others: account.aiccu.noconfigure,
            carrier: CarrierChoice::default(),
            remote: None,
            update: None,
            kind: Kind::Account(Box::new(account)),
            addresses: Vec::new(),
            peer: None,
            check_target: None,
            check_source: None,
            check_addresses: Vec::new(),
            prefixes: Vec::new(),
            direct: Vec::new(),
            // There are more tables than tunnels.
            table: table.ok_or(Refused::TooMany)?,
            mtu: None,
            gateway: None,
            follows: Follows::default(),
            tentative: Vec::new(),
            former: Vec::new(),
            on_link: Vec::new(),
            probe: None,
            deprecate_when_failing: false,
        };
        self.tunnels.push(tunnel.clone());
        Ok(tunnel)
    }

    /// Adds an existing tunnel of another configuration, without changes.
    pub fn add_existing(&mut self, tunnel: Tunnel) -> Result<(), Refused> {
        self.has_room(&tunnel.name)?;
        let tunnels = self.tunnels.iter().map(|other| (other.table, &other.name));
        let groups = self.groups.iter().map(|group| (group.table, &group.name));
        let mut others = tunnels.chain(groups);
        if self.rule_mode == RuleMode::Rules
            && let Some((_, other)) = others.find(|(table, _)| *table == tunnel.table)
        {
            return Err(Refused::Table(tunnel.table, other.clone()));
        }
        self.tunnels.push(tunnel);
        Ok(())
    }

    fn has_room(&self, name: &IfName) -> Result<(), Refused> {
        let is_group = self.groups.iter().any(|group| group.name == *name);
        if is_group || self.tunnels.iter().any(|tunnel| tunnel.name == *name) {
            return Err(Refused::Name(name.clone()));
        }
        if self.uplinks.as_ref().is_some_and(|u| u.contains(name)) {
            return Err(Refused::Uplink(name.clone()));
        }
        if self.tunnels.len() >= TUNNELS {
            return Err(Refused::TooMany);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aiccu, config::Tls};

    fn account(interface: &str) -> Account {
        let text =
            format!("username a\npassword b\nserver tic.example\nipv6_interface {interface}\n");
        Account {
            file: "aiccu.conf".to_owned(),
            aiccu: aiccu::parse("aiccu.conf", text.as_bytes()).unwrap(),
            tls: Tls {
                ca: None,
                verify: true,
            },
        }
    }

    #[test]
    fn each_has_a_name_and_a_table_of_its_own() {
        let mut config = Config {
            uplinks: Some(vec!["net0".parse().unwrap()]),
            ..Config::default()
        };
        let tables: Vec<_> = ["a", "b", "c"]
            .map(|name| config.add(account(name)).unwrap().table.0)
            .into();
        assert_eq!(tables, [200, 201, 202]);
        config.tunnels.remove(1);
        assert_eq!(config.add(account("d")).unwrap().table.0, 201);
        let refused = |config: &mut Config, name: &str| config.add(account(name)).unwrap_err();
        assert!(matches!(refused(&mut config, "a"), Refused::Name(_)));
        assert!(matches!(refused(&mut config, "net0"), Refused::Uplink(_)));
        for number in config.tunnels.len()..TUNNELS {
            config.add(account(&format!("t{number}"))).unwrap();
        }
        assert_eq!(refused(&mut config, "more"), Refused::TooMany);
        let tables: BTreeSet<_> = config.tunnels.iter().map(|tunnel| tunnel.table).collect();
        assert_eq!(tables.len(), TUNNELS);
    }
}
