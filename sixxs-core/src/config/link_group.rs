//! Links that carry the same prefixes.

use std::time::Duration;

use crate::types::{IfName, Prefix, TableId};

/// Links that carry the same prefixes, one of them at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, which no interface of the configuration has.
    pub name: IfName,
    /// The names of its links.
    pub links: Vec<IfName>,
    /// The links to which it returns when they are good again, the best one first.
    pub prefer: Vec<IfName>,
    /// The prefixes.
    pub prefixes: Vec<Prefix>,
    /// Destinations that are reached without the links.
    pub direct: Vec<Prefix>,
    /// Its routing table.
    pub table: TableId,
    /// A preferred link carries again when it has been good for this long.
    pub return_after: Duration,
    /// The link that carries the prefixes at present; in a configuration file, the first one.
    pub active: IfName,
}

impl Group {
    /// Its links, the preferred ones first.
    pub fn in_order(&self) -> impl Iterator<Item = &IfName> {
        let others = self.links.iter();
        let others = others.filter(|link| !self.prefer.contains(link));
        self.prefer.iter().chain(others)
    }
}
