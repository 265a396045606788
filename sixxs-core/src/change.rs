//! The difference between two configurations.
//!
//! Pure. The daemon uses it for a reload, and `sixxs reload --check` prints it.

use crate::{
    config::{Config, Tunnel},
    types::IfName,
};

/// The difference between two configurations; tunnels are in the order of their file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Tunnels that only the new one has.
    pub added: Vec<IfName>,
    /// Tunnels that only the old one has.
    pub removed: Vec<IfName>,
    /// Tunnels whose driver has to restart them.
    pub restarted: Vec<IfName>,
    /// Tunnels that keep running, with changed rules, routes or checks.
    pub altered: Vec<IfName>,
    /// Keys outside of tunnels with a changed value.
    pub settings: Vec<&'static str>,
}

impl Change {
    /// The difference from `old` to `new`. `has_programs`: the programs of this kernel can carry packets.
    #[must_use]
    pub fn between(old: &Config, new: &Config, has_programs: bool) -> Self {
        let find = |config: &'_ Config, name: &IfName| -> Option<Tunnel> {
            let mut tunnels = config.tunnels.iter();
            tunnels.find(|tunnel| tunnel.name == *name).cloned()
        };
        let mut change = Self {
            settings: settings(old, new),
            ..Self::default()
        };
        for tunnel in &new.tunnels {
            let list = match find(old, &tunnel.name) {
                None => &mut change.added,
                Some(was) if was.differs_to_driver(tunnel, has_programs) => &mut change.restarted,
                Some(was) if was != *tunnel => &mut change.altered,
                Some(_) => continue,
            };
            list.push(tunnel.name.clone());
        }
        let gone = |tunnel: &&Tunnel| find(new, &tunnel.name).is_none();
        let removed = old.tunnels.iter().filter(gone);
        change.removed = removed.map(|tunnel| tunnel.name.clone()).collect();
        change
    }

    /// Tunnels to stop: the removed and the restarted ones.
    #[must_use]
    pub fn stops(&self) -> Vec<IfName> {
        [&self.removed[..], &self.restarted].concat()
    }

    /// Tunnels to start: the added and the restarted ones.
    #[must_use]
    pub fn starts(&self) -> Vec<IfName> {
        [&self.added[..], &self.restarted].concat()
    }

    /// Whether the configurations are equal.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The keys with changed values.
fn settings(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        uplinks,
        on_leak,
        answer_echo,
        xdp,
        inside_test,
        direct_connected,
        rule_priority,
        connect_limit,
        rule_mode,
        metrics,
        page,
        metrics_hosts,
        alerting,
        tunnels: _,
        groups,
    } = new;
    let differs = [
        ("uplinks", *uplinks != old.uplinks),
        ("on_leak", *on_leak != old.on_leak),
        ("answer_echo", *answer_echo != old.answer_echo),
        ("xdp", *xdp != old.xdp),
        ("inside_test_minutes", *inside_test != old.inside_test),
        (
            "direct_connected",
            *direct_connected != old.direct_connected,
        ),
        ("rule_priority", *rule_priority != old.rule_priority),
        ("rule_mode", *rule_mode != old.rule_mode),
        ("metrics", *metrics != old.metrics),
        ("page", *page != old.page),
        ("metrics_hosts", *metrics_hosts != old.metrics_hosts),
        ("alert", *alerting != old.alerting),
        ("connect_limit", *connect_limit != old.connect_limit),
        ("group", *groups != old.groups),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::Change;
    use crate::config::{Config, parse};

    const TWO: &str = r#"
        [[tunnel]]
        name = "sixxs0"
        kind = "interface"
        address = "2001:db8:a::2/64"
        [[tunnel]]
        name = "sixxs1"
        kind = "6in4"
        address = "2001:db8:b::2/64"
        peer = "2001:db8:b::1"
        remote4 = "192.0.2.1"
    "#;

    fn read(text: &str) -> Config {
        parse("test", text).unwrap()
    }

    fn names<T: ToString>(list: &[T]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing() {
        assert!(Change::between(&read(TWO), &read(TWO), true).is_nothing());
    }

    #[test]
    fn each_kind_of_change() {
        let new = read(
            &TWO.replace("sixxs0", "sixxs2")
                .replace("192.0.2.1", "192.0.2.9")
                .replacen('\n', "\nrule_priority = 9000\n", 1),
        );
        let change = Change::between(&read(TWO), &new, true);
        assert_eq!(names(&change.added), ["sixxs2"]);
        assert_eq!(names(&change.removed), ["sixxs0"]);
        assert_eq!(names(&change.restarted), ["sixxs1"]);
        assert_eq!(change.settings, ["rule_priority"]);
        assert_eq!(names(&change.stops()), ["sixxs0", "sixxs1"]);
        assert_eq!(names(&change.starts()), ["sixxs2", "sixxs1"]);
        let more = TWO.replacen("/64\"", "/64\"\nprefixes = [\"2001:db8:100::/48\"]", 1);
        let change = Change::between(&read(TWO), &read(&more), true);
        assert_eq!(names(&change.altered), ["sixxs0"]);
        assert!(change.stops().is_empty());
    }

    #[test]
    fn each_setting_is_compared() {
        for (key, line) in [
            ("uplinks", "uplinks = [\"net0\"]"),
            ("on_leak", "on_leak = \"drop\""),
            ("answer_echo", "answer_echo = \"kernel\""),
            ("xdp", "xdp = { net0 = \"native\" }"),
            ("inside_test_minutes", "inside_test_minutes = 0"),
            ("direct_connected", "direct_connected = false"),
            ("rule_priority", "rule_priority = 9000"),
            ("rule_mode", "rule_mode = \"subtrees\""),
            ("metrics", "metrics = \"127.0.0.1:9346\""),
            ("page", "page = \"127.0.0.1:9347\""),
            ("metrics_hosts", "metrics_hosts = \"web1\""),
            ("alert", "alert = { command = [\"tell\"] }"),
            ("connect_limit", "connect_limit = { connects = 1 }"),
        ] {
            let new = read(&format!("{line}\n{TWO}"));
            let change = Change::between(&read(TWO), &new, true);
            assert_eq!(change.settings, [key]);
            assert!(!change.is_nothing(), "{key}");
        }
        let group = "check_target = \"2001:db8:f::1\"\n[[group]]\nlinks = [\"sixxs0\", \"sixxs1\"]\n\
                     prefixes = \"2001:db8:cc::/48\"\n";
        let first = "address = \"2001:db8:a::2/64\"\n";
        let both = TWO.replace(first, &format!("{first}peer = \"2001:db8:a::1\"\n"));
        let new = read(&format!("{both}{group}"));
        assert_eq!(
            Change::between(&read(&both), &new, true).settings,
            ["group"]
        );
    }
}
