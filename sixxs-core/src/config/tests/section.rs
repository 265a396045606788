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

/// A long string may be a secret in the wrong place.
#[test]
fn what_was_found_is_described() {
    let (short, long) = ("é".repeat(40), "é".repeat(41));
    for (value, expected) in [
        (format!("\"{short}\""), format!("{short:?}")),
        (format!("\"{long}\""), "a long string".to_owned()),
        ("0x1F".to_owned(), "0x1F".to_owned()),
        ("1.5".to_owned(), "1.5".to_owned()),
        ("true".to_owned(), "true".to_owned()),
        ("1979-05-27".to_owned(), "a date".to_owned()),
        ("[1]".to_owned(), "a list".to_owned()),
        ("{ a = 1 }".to_owned(), "a table".to_owned()),
    ] {
        let text = format!("a = {value}\n");
        let lines = Lines::of(&text);
        let table = DeTable::parse(&text).unwrap().into_inner();
        let mut section = Section::new(table, SectionHeader::of_file(), &lines);
        assert!(section.integer("a", 100..=200).is_invalid(), "{value}");
        let invalid = section.finish(&[]).check("f", None::<()>).unwrap_err();
        let expected =
            format!("f: line 1: a: expected an integer from 100 to 200, found {expected}");
        assert_eq!(invalid.to_string(), expected);
    }
}

#[test]
fn each_type_is_told_from_the_others() {
    type Read = fn(&mut Section<'_>) -> bool;
    let strings: Read = |s| s.strings("a", "strings").is_invalid();
    let cases: [(&str, Option<&str>, Read); 14] = [
        ("0", None, |s| s.integer("a", 0..=5).value() != Some(0)),
        ("5", None, |s| s.integer("a", 0..=5).value() != Some(5)),
        ("0b101", None, |s| s.integer("a", 0..=5).value() != Some(5)),
        ("6", Some("from 0 to 5, found 6"), |s| {
            s.integer("a", 0..=5).is_invalid()
        }),
        ("-1", Some("from 0 to 5, found -1"), |s| {
            s.integer("a", 0..=5).is_invalid()
        }),
        ("\"x\"", Some("expected true or false, found \"x\""), |s| {
            s.boolean("a").is_invalid()
        }),
        ("false", None, |s| s.boolean("a").value() != Some(false)),
        (
            "1",
            Some("expected a string; put the password in quotes"),
            |s| s.secret("a").is_invalid(),
        ),
        ("[\"x\", \"y\"]", None, |s| {
            s.strings("a", "strings").value() != Some(vec!["x".into(), "y".into()])
        }),
        (
            "[\"x\", 2]",
            Some("expected strings, found 2 in it"),
            strings,
        ),
        ("\"x\"", Some("expected strings, found \"x\""), strings),
        ("\"192.0.2.1\"", Some("that is IPv4"), |s| {
            s.ipv6("a").is_invalid()
        }),
        ("\"x\"", Some("no IPv6 address"), |s| {
            s.ipv6("a").is_invalid()
        }),
        ("3", Some("expected a [a] table, found 3"), |s| {
            s.section("a").is_invalid()
        }),
    ];
    for (value, expected, read) in cases {
        let text = format!("\na = {value}\n");
        let lines = Lines::of(&text);
        let table = DeTable::parse(&text).unwrap().into_inner();
        let mut section = Section::new(table, SectionHeader::of_file(), &lines);
        assert_eq!(read(&mut section), expected.is_some(), "{value}");
        let told = section.finish(&[]).check("f", Some(())).err();
        let told = told.map(|invalid| invalid.to_string());
        assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
        let is_told = told.zip(expected).is_none_or(|(told, expected)| {
            told.starts_with("f: line 2: a: ") && told.ends_with(expected)
        });
        assert!(is_told, "{value}");
    }
}

#[test]
fn tables_of_a_list_are_numbered_and_have_their_lines() {
    let text = "[[t]]\nx = 1\n\n[[t]]\ny = 2\n";
    let lines = Lines::of(text);
    let table = DeTable::parse(text).unwrap().into_inner();
    let mut section = Section::new(table, SectionHeader::of_file(), &lines);
    let tables = section.sections("t");
    let unknown: Vec<_> = tables
        .into_iter()
        .map(|t| found(t.finish(&["x"])))
        .collect();
    let at = |line, key: &str| vec![(line, key.to_owned())];
    assert_eq!(unknown, [at(2, "t[1].x"), at(5, "t[2].y")]);
    for (text, expected) in [
        ("t = 1\n", "f: line 1: t: expected [[t]] tables, found 1"),
        (
            "t = [\n{},\n7]\n",
            "f: line 3: t[2]: expected a table, found 7",
        ),
    ] {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).unwrap().into_inner();
        let mut section = Section::new(table, SectionHeader::of_file(), &lines);
        section.sections("t");
        let invalid = section.finish(&[]).check("f", None::<()>).unwrap_err();
        assert_eq!(invalid.to_string(), expected);
    }
}
