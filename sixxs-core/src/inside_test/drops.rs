//! Reads the text that tracefs prints: why the kernel drops packets (`skb:kfree_skb`, with reasons from Linux 5.17 on), and
//! by which interface they leave (`net:net_dev_queue`, behind the programs).

use std::fmt;

/// A dropped packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropEvent {
    /// The kernel's reason.
    pub reason: String,
    /// The function that dropped it; `None`: this kernel prints only numbers.
    pub location: Option<String>,
}

/// The reason of a function that gives none.
pub(super) const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

/// The function that frees the packet that a test run has copied.
const TEST_RUN: &str = "bpf_prog_test_run_skb";

impl fmt::Display for DropEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{} at {location}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// What the kernel did with the packets of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The packets that it dropped.
    pub drops: Vec<DropEvent>,
    /// The interface by which a packet left that no program caught there.
    pub left_by: Option<String>,
}

/// Reads the text of a run. Events after a packet has left are not of this host: the next one may run on the same processor,
/// in another network namespace. The packet that the test run itself frees is not in the result.
#[must_use]
pub fn parse(text: &str) -> Trace {
    let mut trace = Trace::default();
    for line in text.lines() {
        if let Some(interface) = departure(line) {
            trace.left_by = Some(interface.to_owned());
            break;
        }
        trace.drops.extend(event(line));
    }
    let is_test_run = |event: &DropEvent| event.location.as_deref() == Some(TEST_RUN);
    if trace.drops.iter().any(is_test_run) {
        trace.drops.retain(|event| !is_test_run(event));
    } else if trace.left_by.is_none()
        && let Some(last) = trace.drops.last()
        && last.location.is_none()
        && last.reason == NOT_SPECIFIED
    {
        // Without locations it is known only to be the last one.
        trace.drops.pop();
    }
    trace
}

/// The reasons of queues begin like this.
const QUEUE: &str = "QDISC";

/// The packet that a queue dropped after it had left the programs behind.
#[must_use]
pub fn in_queue(text: &str) -> Option<DropEvent> {
    let mut lines = text
        .lines()
        .skip_while(|line| departure(line).is_none())
        .skip(1);
    // The next departure is on another host, or of another packet.
    let dropped = lines.next().and_then(event)?;
    dropped.reason.starts_with(QUEUE).then_some(dropped)
}

/// What happened in each run, in the order of the first one. Other packets may be dropped in the same process at the same time,
/// but hardly in each run.
#[must_use]
pub fn in_each(runs: &[Trace]) -> Trace {
    let mut common = Trace::default();
    let Some((first, others)) = runs.split_first() else {
        return common;
    };
    for event in &first.drops {
        let is_in = |run: &Trace| run.drops.contains(event);
        if others.iter().all(is_in) && !common.drops.contains(event) {
            common.drops.push(event.clone());
        }
    }
    if others.iter().all(|run| run.left_by == first.left_by) {
        common.left_by = first.left_by.clone();
    }
    common
}

/// The interface in a line such as `… net_dev_queue: dev=net0 skbaddr=… len=78`.
fn departure(line: &str) -> Option<&str> {
    let (_, fields) = line.split_once(" net_dev_queue: dev=")?;
    fields.split(' ').next()
}

/// The event in a line, such as `… kfree_skb: skbaddr=… protocol=34525 location=icmpv6_rcv+0x1b/0x50 reason: NO_SOCKET`.
fn event(line: &str) -> Option<DropEvent> {
    let (_, fields) = line.split_once(" kfree_skb: ")?;
    let (fields, reason) = fields.split_once(" reason: ")?;
    let (_, location) = fields.split_once("location=")?;
    // "nft_do_chain+0x5b/0x5f0 [nf_tables]", or a number.
    let name = location.split(['+', ' ']).next().unwrap_or_default();
    let digits = name.strip_prefix("0x").unwrap_or(name);
    let is_number = digits.len() >= 8 && digits.chars().all(|digit| digit.is_ascii_hexdigit());
    let is_known = !name.is_empty() && !is_number;
    Some(DropEvent {
        reason: reason.trim().to_owned(),
        location: is_known.then(|| name.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(reason: &str, location: Option<&str>) -> DropEvent {
        DropEvent {
            reason: reason.to_owned(),
            location: location.map(str::to_owned),
        }
    }

    /// As Linux 6.18 prints it.
    #[test]
    fn reasons_and_places_are_read() {
        let text = "\
            sixxs-4711    [001] b.s3.    12.345678: kfree_skb: skbaddr=00000000d1c2 rx_sk=0000000000000000 protocol=34525 location=nft_do_chain+0x55b/0x5f0 [nf_tables] reason: NETFILTER_DROP\n\
            sixxs-4711    [001] .....    12.345680: kfree_skb: skbaddr=00000000d1c3 rx_sk=0000000000000000 protocol=34525 location=bpf_prog_test_run_skb+0x3f0/0xa60 reason: NOT_SPECIFIED\n";
        let found = parse(text).drops;
        assert_eq!(found, [drop("NETFILTER_DROP", Some("nft_do_chain"))]);
        assert_eq!(found[0].to_string(), "NETFILTER_DROP at nft_do_chain");
        assert_eq!(parse("CPU:0 [LOST 5 EVENTS]\n"), Trace::default());
    }

    /// What the next host drops is of no interest.
    #[test]
    fn a_packet_that_left_is_of_the_next_host() {
        let text = "\
            sixxs-4711 [001] b.s3. 12.3: net_dev_queue: dev=net0 skbaddr=0000000000d1c2 len=78\n\
            sixxs-4711 [001] b.s3. 12.4: kfree_skb: skbaddr=1 protocol=34525 location=nft_do_chain+0x5/0x5f0 reason: NETFILTER_DROP\n";
        let expected = Trace {
            drops: Vec::new(),
            left_by: Some("net0".to_owned()),
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_queue_drops_what_has_departed() {
        let left =
            "sixxs-4711 [001] b.s3. 12.3: net_dev_queue: dev=net0 skbaddr=0000000000d1c2 len=78\n";
        let dropped = |reason: &str| {
            format!(
                "sixxs-4711 [001] b.s3. 12.4: kfree_skb: skbaddr=1 protocol=34525 location=__dev_queue_xmit+0x5/0x5f0 reason: {reason}\n"
            )
        };
        let expected = drop("QDISC_DROP", Some("__dev_queue_xmit"));
        let queue = dropped("QDISC_DROP");
        assert_eq!(in_queue(&format!("{left}{queue}")), Some(expected));
        for other in [
            String::new(),
            queue.clone(),
            left.to_owned(),
            format!("{left}{}", dropped("NETFILTER_DROP")),
            format!("{left}{left}"),
        ] {
            assert_eq!(in_queue(&other), None, "{other}");
        }
    }

    /// As Linux 6.1 prints it: the last one is the test run's own.
    #[test]
    fn places_may_be_numbers() {
        let line = |reason| {
            format!(
                "x-1 [000] ..s. 1.0: kfree_skb: skbaddr=00000000d1c2 protocol=34525 location=000000007a33f0b1 reason: {reason}\n"
            )
        };
        let text = line("NOT_SPECIFIED") + &line("NETFILTER_DROP") + &line("NOT_SPECIFIED");
        let expected = [drop("NOT_SPECIFIED", None), drop("NETFILTER_DROP", None)];
        assert_eq!(parse(&text).drops, expected);
        assert_eq!(expected[0].to_string(), "NOT_SPECIFIED");
        assert_eq!(parse(&line("IP_INNOROUTES")).drops.len(), 1);
    }

    #[test]
    fn only_what_happens_each_time_belongs_to_the_test() {
        let [ours, other] = [drop("NETFILTER_DROP", None), drop("OTHERHOST", None)];
        let run = |drops: &[&DropEvent], left_by: Option<&str>| Trace {
            drops: drops.iter().copied().cloned().collect(),
            left_by: left_by.map(str::to_owned),
        };
        let runs = [run(&[&other, &ours, &ours], None), run(&[&ours], None)];
        assert_eq!(in_each(&runs), run(&[&ours], None));
        assert_eq!(in_each(&runs[..1]), run(&[&other, &ours], None));
        assert_eq!(in_each(&[]), Trace::default());
        for (second, expected) in [
            (Some("net0"), Some("net0")),
            (Some("net1"), None),
            (None, None),
        ] {
            let runs = [run(&[], Some("net0")), run(&[], second)];
            assert_eq!(in_each(&runs), run(&[], expected));
        }
    }
}
