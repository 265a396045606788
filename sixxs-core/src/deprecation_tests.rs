//! Decisions one by one, and in any order on a model of the kernel.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    config,
    link::Link,
    types::{IfIndex, Mtu},
};

const NOW: Duration = Duration::from_secs(1000);
const DSL: IfIndex = IfIndex(7);

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

/// An address of `dsl0` without an end, made at 10 s.
fn address(text: &str) -> ListedAddress {
    ListedAddress {
        index: DSL,
        address: text.parse().unwrap(),
        preferred: Lifetime::Forever,
        valid: Lifetime::Forever,
        created: 1000,
        changed: 1000,
        is_usable: true,
        is_temporary: false,
    }
}

fn failing() -> FailingSources {
    let source = "2001:db8:a::/64".parse().unwrap();
    FailingSources(BTreeMap::from([(DSL, (name("dsl0"), vec![source]))]))
}

/// The steps as text.
fn steps(decision: &Decision) -> Vec<String> {
    decision.steps.iter().map(ToString::to_string).collect()
}

/// The address after sixxs has deprecated it, and the record of that.
fn deprecated(before: &ListedAddress) -> (ListedAddress, Record) {
    let first = decide(
        &Record::default(),
        std::slice::from_ref(before),
        &failing(),
        NOW,
    );
    assert_eq!(first.steps.len(), 1, "{first:?}");
    let after = ListedAddress {
        preferred: Lifetime::OVER,
        changed: 2000,
        ..*before
    };
    let second = decide(&first.record, &[after], &failing(), NOW);
    assert_eq!(second.steps, []);
    (after, second.record)
}

#[test]
fn only_addresses_of_failing_links_are_deprecated() {
    let own = address("2001:db8:a::2");
    let of_another_link = ListedAddress {
        index: IfIndex(8),
        ..own
    };
    let all = [
        own,
        of_another_link,
        address("2001:db8:b::2"),
        address("fe80::2"),
    ];
    let decision = decide(&Record::default(), &all, &failing(), NOW);
    assert_eq!(steps(&decision), ["dsl0: deprecate 2001:db8:a::2"]);
    assert_eq!(decision.steps[0].preferred, Lifetime::OVER);
    let recorded: Vec<_> = decision.record.of_tunnel(&name("dsl0")).collect();
    assert_eq!(recorded, [own.address]);
    let none = decide(&Record::default(), &all, &FailingSources::default(), NOW);
    assert_eq!(none, Decision::default());
}

#[test]
fn some_addresses_are_left_alone() {
    let own = address("2001:db8:a::2");
    for (what, left_alone) in [
        (
            "other software has deprecated it",
            ListedAddress {
                preferred: Lifetime::OVER,
                ..own
            },
        ),
        (
            "it is tentative",
            ListedAddress {
                is_usable: false,
                ..own
            },
        ),
        (
            "the kernel sets its lifetimes",
            ListedAddress {
                is_temporary: true,
                ..own
            },
        ),
        (
            "it goes now",
            ListedAddress {
                preferred: Lifetime::Seconds(1),
                valid: Lifetime::OVER,
                ..own
            },
        ),
    ] {
        let decision = decide(&Record::default(), &[left_alone], &failing(), NOW);
        assert_eq!(decision, Decision::default(), "{what}");
    }
}

#[test]
fn former_lifetimes_are_put_back() {
    use Lifetime::{Forever, Seconds};
    for (preferred, valid, left, passed, expected) in [
        (Forever, Forever, Forever, 50, Some("forever")),
        (Seconds(300), Seconds(600), Seconds(550), 50, Some("250 s")),
        (Seconds(300), Forever, Forever, 50, Some("250 s")),
        // It would have ended meanwhile.
        (Seconds(30), Seconds(600), Seconds(550), 50, None),
    ] {
        let before = ListedAddress {
            preferred,
            valid,
            ..address("2001:db8:a::2")
        };
        let (after, record) = deprecated(&before);
        let after = ListedAddress {
            valid: left,
            ..after
        };
        let now = NOW + Duration::from_secs(passed);
        assert_eq!(decide(&record, &[after], &failing(), now).record, record);
        let decision = decide(&record, &[after], &FailingSources::default(), now);
        let text = |left| format!("dsl0: make 2001:db8:a::2 preferred again: {left}");
        let expected: Vec<_> = expected.into_iter().map(text).collect();
        assert_eq!(steps(&decision), expected);
        // It stays in the record until it is preferred.
        assert_eq!(decision.record.is_empty(), expected.is_empty());
        let restored = ListedAddress {
            preferred: Seconds(1),
            changed: 3000,
            ..after
        };
        let none = FailingSources::default();
        assert_eq!(
            decide(&decision.record, &[restored], &none, now),
            Decision::default()
        );
    }
}

#[test]
fn what_other_software_sets_meanwhile_counts() {
    let (after, record) = deprecated(&address("2001:db8:a::2"));
    let refreshed = ListedAddress {
        preferred: Lifetime::Seconds(300),
        valid: Lifetime::Seconds(600),
        changed: 2500,
        ..after
    };
    let none = FailingSources::default();
    // A router advertisement while the link fails: the newest lifetimes are remembered.
    let again = decide(&record, &[refreshed], &failing(), NOW);
    assert_eq!(again.steps[0].change, Change::DeprecateAgain);
    let after_that = ListedAddress {
        preferred: Lifetime::OVER,
        changed: 2600,
        ..refreshed
    };
    let back = decide(&again.record, &[after_that], &none, NOW);
    assert_eq!(back.steps[0].preferred, Lifetime::Seconds(300));
    // The same after the link has recovered: nothing is left to do.
    assert_eq!(
        decide(&record, &[refreshed], &none, NOW),
        Decision::default()
    );
    // Other software has deprecated it, or it is another address.
    for changed in [
        ListedAddress {
            changed: 2500,
            ..after
        },
        ListedAddress {
            created: 2500,
            ..after
        },
    ] {
        for failing in [&failing(), &none] {
            let decision = decide(&record, &[changed], failing, NOW);
            assert_eq!(decision, Decision::default(), "{changed:?}");
        }
    }
}

/// While addresses come and go, a list may lack one that is there.
#[test]
fn an_address_is_forgotten_when_two_lists_lack_it() {
    let (after, record) = deprecated(&address("2001:db8:a::2"));
    let none = FailingSources::default();
    let first = decide(&record, &[], &none, NOW);
    assert!(!first.record.is_empty() && first.steps.is_empty());
    assert_eq!(decide(&first.record, &[after], &none, NOW).steps.len(), 1);
    assert_eq!(decide(&first.record, &[], &none, NOW), Decision::default());
}

#[test]
fn an_unusable_address_is_put_back_later() {
    let (after, record) = deprecated(&address("2001:db8:a::2"));
    let none = FailingSources::default();
    let tentative = ListedAddress {
        is_usable: false,
        ..after
    };
    let waits = decide(&record, &[tentative], &none, NOW);
    assert_eq!((waits.record.clone(), waits.steps.len()), (record, 0));
    assert_eq!(decide(&waits.record, &[after], &none, NOW).steps.len(), 1);
}

#[test]
fn sources_are_those_of_failing_links_with_the_option() {
    let text = |option: &str| {
        format!(
            "[[link]]\nname = \"dsl0\"\nkind = \"interface\"\naddress = \"2001:db8:a::2/64\"\n\
             prefixes = [\"2001:db8:aa::/48\"]\n{option}"
        )
    };
    let with = config::parse("f", &text("deprecate_when_failing = true\n")).unwrap();
    let without = config::parse("f", &text("")).unwrap();
    let links: Links = [Link::up(DSL, name("dsl0"), Mtu(1500))]
        .into_iter()
        .collect();
    let sources = FailingSources::of(&with, &links, |_| true);
    for (text, is_its) in [
        ("2001:db8:a::2", true),
        ("2001:db8:a::3", false),
        ("2001:db8:aa::1", true),
    ] {
        let owner = sources.owner(&address(text));
        assert_eq!(owner.is_some(), is_its, "{text}");
    }
    assert!(FailingSources::of(&with, &links, |_| false).is_empty());
    assert!(FailingSources::of(&without, &links, |_| true).is_empty());
    assert!(FailingSources::of(&with, &Links::default(), |_| true).is_empty());
}

/// Lifetimes that were set at a time, in seconds.
#[derive(Clone, Copy, Debug)]
struct SetLifetimes {
    at: u32,
    preferred: Lifetime,
    valid: Lifetime,
}

impl SetLifetimes {
    fn left(&self, now: u32) -> (Lifetime, Lifetime) {
        let passed = Duration::from_secs((now - self.at).into());
        (self.preferred.after(passed), self.valid.after(passed))
    }
}

/// A model of an address in the kernel, and what it would be without sixxs.
#[derive(Clone, Copy, Debug)]
struct Model {
    created: u32,
    changed: u32,
    present: SetLifetimes,
    without_sixxs: SetLifetimes,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u32),
    LinkFails(bool),
    Sets(usize, Lifetime, Lifetime),
    MadeAgain(usize),
    Round,
    /// The process ends after this number of steps, and another one starts.
    Crash(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    use Lifetime::{Forever, Seconds};
    let lifetimes = select(vec![
        (Forever, Forever),
        (Seconds(300), Forever),
        (Seconds(300), Seconds(600)),
        (Seconds(20), Seconds(600)),
        (Seconds(600), Seconds(600)),
        (Seconds(0), Forever),
        (Seconds(0), Seconds(600)),
    ]);
    let sets = (0_usize..3, lifetimes);
    prop_oneof![
        1 => (1_u32..40).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::LinkFails),
        1 => sets.prop_map(|(at, (preferred, valid))| Event::Sets(at, preferred, valid)),
        1 => (0_usize..3).prop_map(Event::MadeAgain),
        3 => Just(Event::Round),
        1 => (0_usize..3).prop_map(Event::Crash),
    ]
}

/// A host with three addresses.
struct Host {
    now: u32,
    ticks: u32,
    addresses: [Model; 3],
    record: Record,
    is_failing: bool,
}

impl Host {
    fn new() -> Self {
        let forever = SetLifetimes {
            at: 0,
            preferred: Lifetime::Forever,
            valid: Lifetime::Forever,
        };
        let model = Model {
            created: 0,
            changed: 0,
            present: forever,
            without_sixxs: forever,
        };
        Self {
            now: 0,
            ticks: 0,
            addresses: [model; 3],
            record: Record::default(),
            is_failing: false,
        }
    }

    /// The kernel's times differ for each change.
    fn tick(&mut self) -> u32 {
        self.ticks += 1;
        self.ticks
    }

    fn listed(&self) -> Vec<ListedAddress> {
        let all = (1..).zip(&self.addresses);
        let listed = all.map(|(last, model)| {
            let (preferred, valid) = model.present.left(self.now);
            ListedAddress {
                preferred,
                valid,
                created: model.created,
                changed: model.changed,
                ..address(&format!("2001:db8:a::{last}"))
            }
        });
        // The kernel removes an address whose valid lifetime is over.
        listed
            .filter(|listed| listed.valid != Lifetime::OVER)
            .collect()
    }

    /// Decides and carries out at most this number of steps. The record is on disk before.
    fn round(&mut self, limit: usize) -> usize {
        let failing = match self.is_failing {
            true => failing(),
            false => FailingSources::default(),
        };
        let now = Duration::from_secs(self.now.into());
        let decision = decide(&self.record, &self.listed(), &failing, now);
        self.record = decision.record;
        for step in decision.steps.iter().take(limit) {
            let last = usize::from(step.address.address.segments()[7]) - 1;
            let changed = self.tick();
            let model = &mut self.addresses[last];
            model.changed = changed;
            model.present = SetLifetimes {
                at: self.now,
                preferred: step.preferred,
                valid: step.address.valid,
            };
        }
        decision.steps.len()
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wait(seconds) => self.now += seconds,
            Event::LinkFails(is_failing) => self.is_failing = is_failing,
            Event::Sets(at, preferred, valid) => {
                let changed = self.tick();
                let lifetimes = SetLifetimes {
                    at: self.now,
                    preferred,
                    valid,
                };
                let model = &mut self.addresses[at];
                model.changed = changed;
                (model.present, model.without_sixxs) = (lifetimes, lifetimes);
            }
            Event::MadeAgain(at) => {
                let created = self.tick();
                self.happens(Event::Sets(at, Lifetime::Forever, Lifetime::Forever));
                self.addresses[at].created = created;
            }
            // The daemon reads the kernel back after its changes.
            Event::Round => {
                self.round(usize::MAX);
                self.round(0);
            }
            Event::Crash(done) => {
                self.round(done);
                self.record = Record::read(self.record.text().as_bytes()).unwrap();
                self.happens(Event::Round);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// In the end each address is as it would be without sixxs.
    #[test]
    fn nothing_is_left_behind(events in vec(any_event(), 1..40)) {
        let mut host = Host::new();
        for event in events {
            host.happens(event);
            if host.is_failing && matches!(event, Event::Round) {
                let listed = host.listed();
                prop_assert!(listed.iter().all(ListedAddress::is_deprecated), "{listed:?}");
            }
        }
        host.is_failing = false;
        host.happens(Event::Round);
        prop_assert!(host.record.is_empty(), "{:?}", host.record);
        prop_assert_eq!(host.round(0), 0);
        for model in host.addresses {
            let [present, expected] =
                [model.present, model.without_sixxs].map(|lifetimes| lifetimes.left(host.now));
            prop_assert_eq!(present, expected, "{:?}", model);
        }
    }
}
