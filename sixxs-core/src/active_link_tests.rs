use super::*;
use crate::{
    config::{self, Config},
    link::Link,
    routing::{Desired, diff, observed::ObservedRoute},
    tunnel::State,
    types::{IfIndex, Mtu, PROTOCOL},
};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

/// A group of three links with this text in its section.
fn group(more: &str) -> Group {
    with_group(more).groups[0].clone()
}

fn with_group(more: &str) -> Config {
    let link = |number: u32, name: &str| {
        format!(
            "[[link]]\nname = \"{name}\"\nkind = \"interface\"\naddress = \"2001:db8:{number}::2/64\"\n\
             peer = \"2001:db8:{number}::1\"\n"
        )
    };
    let links = [link(1, "a"), link(2, "b"), link(3, "c")].concat();
    let text = format!(
        "{links}[[group]]\nname = \"lan\"\nlinks = [\"a\", \"b\", \"c\"]\nprefixes = [\"2001:db8:cc::/48\"]\n{more}"
    );
    config::parse("test", &text).unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The links `a`, `b` and `c`, each good (`g`), failing for certain (`f`), failing perhaps (`p`), or down (`d`).
fn links(letters: &str) -> BTreeMap<IfName, LinkState> {
    let state = |letter| match letter {
        'g' => LinkState::of(&Health::default()),
        'f' => with_reasons(vec![Reason::NoCarrier]),
        'p' => with_reasons(vec![Reason::NotRouted]),
        'd' => with_reasons(vec![Reason::NotUp(State::Down)]),
        other => panic!("{other}"),
    };
    let names = ["a", "b", "c"].map(name);
    names.into_iter().zip(letters.chars().map(state)).collect()
}

fn with_reasons(reasons: Vec<Reason>) -> LinkState {
    LinkState::of(&Health {
        level: Level::Failing,
        reasons,
    })
}

/// The switches for states of the links at times in seconds: when, and to which link.
fn switches(group: &Group, states: &[(u64, &str)]) -> Vec<(u64, String)> {
    let mut group = group.clone();
    let mut active = ActiveLink::default();
    let mut made = Vec::new();
    for (seconds, letters) in states {
        if let Some(switch) = active.decide(&group, &links(letters), at(*seconds)) {
            assert_eq!(switch.from, group.active);
            made.push((*seconds, switch.to.to_string()));
            group.active = switch.to;
        }
    }
    made
}

fn to(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter()
        .map(|(when, link)| (*when, (*link).to_owned()))
        .collect()
}

#[test]
fn the_next_good_link_takes_over_and_the_preferred_one_returns() {
    let group = group("");
    let states = [
        (0, "ggg"),
        (10, "fgg"), // at once
        (20, "ggg"),
        (79, "ggg"),
        (80, "ggg"), // good for 60 s
        (90, "ffg"),
    ];
    assert_eq!(
        switches(&group, &states),
        to(&[(10, "b"), (80, "a"), (90, "c")])
    );
}

#[test]
fn a_fault_that_a_repair_may_end_has_to_last() {
    let group = group("");
    assert_eq!(
        switches(&group, &[(0, "ggg"), (1, "pgg"), (2, "pgg")]),
        to(&[(2, "b")])
    );
    let mut active = ActiveLink::default();
    assert_eq!(active.decide(&group, &links("pgg"), at(5)), None);
    assert_eq!(active.due(), Some(at(6)));
    assert_eq!(active.decide(&group, &links("ggg"), at(6)), None);
    assert_eq!(active.due(), None);
    // A link that comes back begins again.
    assert_eq!(active.decide(&group, &links("pgg"), at(7)), None);
    assert_eq!(active.due(), Some(at(8)));
}

#[test]
fn a_link_that_comes_and_goes_does_not_return() {
    let group = group("");
    let flapping = (0..500).map(|second| (second, if second % 30 < 15 { "fgg" } else { "ggg" }));
    let states: Vec<_> = [(0, "fgg")].into_iter().chain(flapping).collect();
    assert_eq!(switches(&group, &states), to(&[(0, "b")]));
}

#[test]
fn without_preference_the_group_stays() {
    let group = group("prefer = []\n");
    let states = [
        (0, "ggg"),
        (1, "fgg"),
        (2, "ggg"),
        (1000, "ggg"),
        (1001, "gfg"),
    ];
    assert_eq!(switches(&group, &states), to(&[(1, "b"), (1001, "a")]));
}

#[test]
fn preferred_links_come_first_and_the_others_are_never_returned_to() {
    let group = group("prefer = [\"c\"]\nreturn_seconds = 5\n");
    let states = [
        (0, "ggg"),
        (5, "ggg"),
        (6, "ggf"),
        (7, "ggg"),
        (11, "ggg"),
        (12, "ggg"),
    ];
    // From the first link to the preferred one; when that fails, to the first of the others.
    assert_eq!(
        switches(&group, &states),
        to(&[(5, "c"), (6, "a"), (12, "c")])
    );
}

#[test]
fn if_no_link_is_good_the_group_stays_unless_its_link_is_down() {
    let group = group("");
    assert_eq!(switches(&group, &[(0, "fff"), (100, "fff")]), to(&[]));
    assert_eq!(switches(&group, &[(0, "dfd")]), to(&[(0, "b")]));
    assert_eq!(switches(&group, &[(0, "ddd")]), to(&[]));
    let mut active = ActiveLink::default();
    active.decide(&group, &links("fff"), at(0));
    assert!(active.all_fail());
    assert_eq!(active.fitness(&name("b")), Some(Fitness::Failing));
    active.decide(&group, &links("ffg"), at(1));
    assert!(!active.all_fail());
}

#[test]
fn a_link_without_a_state_is_down() {
    let group = group("");
    let mut active = ActiveLink::default();
    let mut known = links("ggg");
    known.remove(&name("a"));
    let switch = active.decide(&group, &known, at(0)).unwrap();
    assert_eq!(
        (switch.to, switch.cause.to_string()),
        (name("b"), "it is gone".to_owned())
    );
}

#[test]
fn a_switch_has_its_cause() {
    let group = group("return_seconds = 7\n");
    let mut active = ActiveLink::default();
    let switch = active.decide(&group, &links("fgg"), at(0)).unwrap();
    assert!(
        switch.cause.to_string().contains("no carrier"),
        "{switch:?}"
    );
    let on_b = Group {
        active: name("b"),
        ..group
    };
    assert_eq!(active.decide(&on_b, &links("ggg"), at(1)), None);
    assert_eq!(active.due(), Some(at(8)));
    let switch = active.decide(&on_b, &links("ggg"), at(9)).unwrap();
    assert_eq!(
        switch.cause.to_string(),
        "it is preferred, and has been good for 8 s"
    );
}

#[test]
fn the_first_link_is_the_earlier_one_or_one_that_is_up() {
    let group = group("prefer = [\"b\"]\n");
    let up = |names: &'static [&str]| {
        move |link: &IfName| names.iter().any(|name| *name == link.as_str())
    };
    assert_eq!(initial(&group, None, up(&["a", "b"])).as_str(), "b");
    assert_eq!(initial(&group, None, up(&["c"])).as_str(), "c");
    assert_eq!(initial(&group, None, up(&[])).as_str(), "b");
    assert_eq!(initial(&group, Some(&name("a")), up(&["b"])).as_str(), "a");
    assert_eq!(initial(&group, Some(&name("x")), up(&["a"])).as_str(), "a");
}

#[test]
fn a_new_run_continues_with_the_link_of_the_route() {
    let config = with_group("");
    let table = config.groups[0].table;
    let route = |protocol, index| ObservedRoute {
        table,
        destination: Prefix::ALL,
        source: Prefix::ALL,
        metric: DEFAULT_METRIC,
        protocol,
        target: ObservedTarget::Interface {
            index: IfIndex(index),
            gateway: None,
            mtu: 0,
            advertised_mss: 0,
        },
    };
    let link = |(index, link, up): (u32, &str, bool)| Link {
        up,
        ..Link::up(IfIndex(index), name(link), Mtu(1500))
    };
    let mut host = Observed {
        links: [(3, "a", false), (4, "b", true), (5, "c", true)]
            .map(link)
            .into_iter()
            .collect(),
        ..Observed::default()
    };
    let active = |host: &Observed| config.active_links(host)[&name("lan")].to_string();
    assert_eq!(active(&host), "b", "the first one that is up");
    host.routes = vec![route(PROTOCOL, 5)];
    assert_eq!(active(&host), "c");
    host.routes = vec![route(3, 5)];
    assert_eq!(active(&host), "b", "a foreign route");
    host.routes = vec![route(PROTOCOL, 9)];
    assert_eq!(active(&host), "b", "an interface that is gone");
    // What it continues with needs no step.
    host.routes = vec![route(PROTOCOL, 5)];
    let on = config.clone().with_active(&config.active_links(&host));
    let steps = diff(&Desired::new(&on, |_| true), &host).steps;
    assert!(
        !steps
            .iter()
            .any(|step| step.to_string().contains("route replace"))
    );
    // A link of another group is not taken over.
    let other = [(name("lan"), name("x"))].into();
    assert_eq!(config.clone().with_active(&other), config);
}
