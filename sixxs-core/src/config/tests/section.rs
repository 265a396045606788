//! Tests of sections and their fields.

use toml::de::DeTable;

use crate::{
    config::section::{Field, Lines, List, Section, SectionHeader},
    diagnostics::{Diagnostics, Location},
};

const TEXT: &str = "\
port = 5
ports = [\"1\", \"x\",
  \"2\"]
wrong = [\"x\"]
none = []
[inner]
flag = 1
";

fn section(lines: &Lines) -> Section<'_> {
    let table = DeTable::parse(TEXT).unwrap().into_inner();
    Section::new(table, SectionHeader::of_file(), lines)
}

fn found(diagnostics: Diagnostics) -> Vec<(usize, String)> {
    let invalid = diagnostics.check("f", None::<()>).unwrap_err();
    let found = invalid.diagnostics.into_iter();
    found.map(|one| (one.line, one.key)).collect()
}

#[test]
fn a_field_is_set_absent_or_invalid() {
    let lines = Lines::of(TEXT);
    let mut section = section(&lines);
    let set = section.integer("port", 1..=9);
    assert_eq!(
        set.as_set().map(|set| (set.value, set.location.line)),
        Some((5, 1))
    );
    // A key can be taken only once.
    let absent = section.integer("port", 1..=9);
    assert_eq!(
        absent,
        Field::Absent(SectionHeader::of_file().location("port"))
    );
    let mut inner = section.section("inner").value().unwrap();
    assert!(inner.boolean("flag").is_invalid());
    assert_eq!(
        inner.secret("word"),
        Field::Absent(Location {
            line: 6,
            key: "inner.word".to_owned()
        })
    );
    assert_eq!(found(inner.finish(&[])), [(7, "inner.flag".to_owned())]);
    let left = ["none", "ports", "wrong"].map(str::to_owned);
    let unknown = found(section.finish(&["port"]));
    assert!(
        unknown
            .iter()
            .map(|(_, key)| key.clone())
            .eq(["ports", "wrong", "none"]),
        "{left:?}"
    );
}

#[test]
fn a_list_has_the_values_that_parse() {
    let lines = Lines::of(TEXT);
    let mut section = section(&lines);
    let ports = section.one_or_many::<u16>("ports", "ports");
    let lines_of = |list: &List<u16>| -> Vec<_> {
        list.items()
            .iter()
            .map(|item| (item.value, item.location.line))
            .collect()
    };
    assert_eq!(lines_of(&ports), [(1, 2), (2, 3)]);
    assert!(section.one_or_many::<u16>("wrong", "ports").is_invalid());
    let empty = section.one_or_many::<u16>("none", "ports");
    assert!(empty.items().is_empty() && empty.as_set().is_some());
    assert!(section.one_or_many::<u16>("missing", "ports").is_absent());
    section.section("inner");
    section.integer("port", 1..=9);
    let expected = [(2, "ports".to_owned()), (4, "wrong".to_owned())];
    assert_eq!(found(section.finish(&[])), expected);
}

#[test]
fn a_missing_field_is_reported_once() {
    let mut diagnostics = Diagnostics::default();
    let absent = || Field::<u32>::Absent(SectionHeader::of_file().location("mtu"));
    assert_eq!(
        Field::<u32>::Invalid.required("a number", &mut diagnostics),
        None
    );
    assert_eq!(
        absent()
            .or(Field::Invalid)
            .required("a number", &mut diagnostics),
        None
    );
    let asked = Field::Invalid.or(absent()).asked_for_at(8);
    assert_eq!(asked.required("a number", &mut diagnostics), None);
    let invalid = diagnostics.check("f", None::<()>).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "f: line 8: mtu: missing; expected a number"
    );
}
