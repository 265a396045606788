//! Where somebody's rule comes before ours and leads elsewhere. The kernel is asked: what a rule does
//! depends on more than can be seen in it.

use sixxs_core::{
    config::{Config, Tunnel},
    doctor::ways::Shadow,
    explain::{
        Packet,
        rules::{self, SeenRule},
    },
    link::Links,
};

use crate::netlink::{GLOBAL, Netlink, Question, Way};

/// Tunnels, of those that `wanted` accepts, whose packets are led elsewhere by rules of others. As of
/// the last look.
pub(crate) async fn shadows(
    netlink: &Netlink,
    config: &Config,
    links: &Links,
    wanted: impl Fn(&Tunnel) -> bool,
) -> anyhow::Result<Vec<Shadow>> {
    // Rules for `direct` come one before, where the order of rules depends on who came first.
    let ours = config.rule_priority;
    let is_before = |rule: &&SeenRule| rule.priority.0 > 0 && rule.priority < ours;
    let others = netlink.others_rules();
    let mut shadows = Vec::new();
    if !others.iter().any(|rule| is_before(&rule)) {
        return Ok(shadows);
    }
    for tunnel in config.tunnels.iter().filter(|tunnel| wanted(tunnel)) {
        let link = links.by_name(&tunnel.name);
        let (Some(link), Some(source)) = (link, tunnel.addresses.first()) else {
            continue;
        };
        let source = source.address;
        if !link.up || !link.addresses.contains(&source) {
            continue;
        }
        let question = Question {
            source: Some(source),
            ..Question::default()
        };
        let (found, leaves_by) = match netlink.way(question).await? {
            Way::By(found) if found.index == Some(link.index) => continue,
            Way::By(found) => (Some((found.table, found.destination.bits())), found.index),
            Way::Refused(_) => (None, None),
        };
        let packet = Packet {
            source,
            destination: GLOBAL,
            uid: Some(nix::unistd::geteuid().as_raw()),
            mark: Some(0),
            iif: None,
            oif: None,
        };
        if let Some(rule) = rules::shadowing(others, &packet, found, ours) {
            shadows.push(Shadow {
                tunnel: tunnel.name.to_string(),
                source,
                rule: rule.clone(),
                leaves_by: found.and(leaves_by),
            });
        }
    }
    Ok(shadows)
}
