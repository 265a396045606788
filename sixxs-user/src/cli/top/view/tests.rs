//! Golden screens of several sizes, in files beside the code (`screens/`), and properties that hold for any
//! screen.
//!
//! After an intended change, `SIXXS_BLESS=1 cargo test -p sixxs-user top` rewrites the files.

use std::{env, fs, path::PathBuf, time::Duration};

use ratatui_core::{backend::TestBackend, terminal::Terminal};
use serde_json::json;

use super::{
    super::{app::App, keys::Key, model::Model},
    *,
};
use crate::control::{Verb, api::Status};

const COLOURED: Theme = Theme {
    colour: true,
    ascii: false,
};
const PLAIN: Theme = Theme {
    colour: false,
    ascii: true,
};

const SIZES: [(u16, u16); 5] = [(80, 24), (120, 40), (200, 60), (40, 10), (20, 5)];

/// A tunnel's status after this many seconds.
fn tunnel(name: &str, number: u64, second: u64) -> serde_json::Value {
    let growth = (number + 1) * 1000 * second * second;
    json!({"name": name, "kind": "interface", "state": "up", "ifindex": 7,
        "addresses": [format!("2001:db8:{number:x}::2")], "prefixes": [], "table": 200 + number,
        "mtu": 1280, "routing": "in_place", "program": "attached",
        "packets": {"in": 0, "out": 0}, "bytes": {"in": growth, "out": growth / 7},
        "echo": {"requests_in": second * number, "replies_out": 0, "requests_out": 0,
            "replies_in": 0, "last_request_in_seconds_ago": null,
            "last_reply_out_seconds_ago": null},
        "proof": {"requests": 100, "answered": 100, "astray": 0, "unanswered": 0,
            "answered_percent": 100.0 - number as f64 / 3.0, "last_answered_seconds_ago": 12.0,
            "median_seconds": 0.00042, "watched_seconds": 60.0},
        "leaks": {"redirected": number * second, "dropped": 0, "observed": 0, "too_big": 0},
        "strays": 0})
}

fn status(names: &[String], second: u64) -> serde_json::Value {
    let tunnels = names.iter().zip(0..);
    let tunnels: Vec<_> = tunnels
        .map(|(name, number)| tunnel(name, number, second))
        .collect();
    let uplinks = if names.is_empty() {
        json!([])
    } else {
        json!([{"name": "net0", "ifindex": 2, "program": "attached", "hook": "tcx",
            "packets": {"out": 0}, "bytes": {"out": second * 123_456}, "leaks": 3 * second}])
    };
    json!({"healthy": true, "corrections": 3, "tunnels": tunnels, "uplinks": uplinks,
        "brokers": [], "problems": []})
}

/// The state after twelve seconds with these tunnels; `change` modifies the last status.
fn app(names: &[String], change: impl Fn(&mut serde_json::Value)) -> App {
    let mut model = Model::new(Duration::from_secs(1));
    for second in 0..=12 {
        let mut value = status(names, second);
        if second == 12 {
            change(&mut value);
        }
        let status: Status = serde_json::from_value(value).unwrap();
        model.set_status(status, Duration::from_secs(second));
    }
    App::new(model)
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn many() -> Vec<String> {
    (0..200).map(|number| format!("tunnel{number}")).collect()
}

fn leak(number: u16, why: &str) -> String {
    json!({"time": format!("2024-01-01T12:03:{:02}Z", number % 60), "kind": "leak",
        "tunnel": "sixxs0", "interface": "net0", "source": "2001:db8:a::2",
        "destination": "2001:db8:ffff::9", "protocol": "udp", "ports": [5353, 53], "packets": 12,
        "treatment": "redirected", "uid": 1000, "cgroup": null, "mark": null, "bound_to": null,
        "forwarded_from": null, "why": why, "cure": "bind the program to the address"})
    .to_string()
}

/// The screen as lines.
fn screen(app: &App, (width, height): (u16, u16), theme: Theme) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| {
        let area = frame.area();
        draw(app, theme, area, frame.buffer_mut());
    });
    drawn.unwrap();
    let screen = terminal.backend().to_string();
    let lines = screen.lines().map(|line| {
        let line = line.strip_prefix('"').and_then(|line| line.split_once('"'));
        line.map_or("?", |(line, _)| line).trim_end()
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn as_in_the_file(name: &str, screen: &str) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/view/screens");
    let path = directory.join(format!("{name}.txt"));
    if env::var_os("SIXXS_BLESS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, screen).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        screen == expected,
        "{name} is to be:\n{expected}\nand is:\n{screen}"
    );
}

/// A mostly healthy state with some leaks, a failed tunnel, problems, and a long name.
fn usual() -> App {
    let mut app = app(&named(&["sixxs0", "sixxs1", "wg-office"]), |status| {
        status["healthy"] = false.into();
        status["problems"] = json!(["uplink net0: no program could be attached: EPERM"]);
        let failed = &mut status["tunnels"][2];
        failed["state"] = "failed".into();
        failed["reason"] = "wg-quick: no such device".into();
        failed["proof"] = json!({"requests": 0, "answered": 0, "astray": 0, "unanswered": 0});
    });
    for number in 0..9 {
        app.model.add_alert(&leak(number, "it is bound to net0"));
    }
    app
}

#[test]
fn sizes() {
    let mut app = usual();
    app.on_key(Key::Down);
    app.on_key(Key::Down);
    for (width, height) in SIZES {
        let shown = screen(&app, (width, height), COLOURED);
        as_in_the_file(&format!("{width}x{height}"), &shown);
    }
    as_in_the_file("ascii", &screen(&app, (80, 24), PLAIN));
    app.on_key(Key::Character('?'));
    as_in_the_file("help", &screen(&app, (80, 24), COLOURED));
    as_in_the_file("help-40x10", &screen(&app, (40, 10), COLOURED));
    app.on_key(Key::Escape);
    app.on_key(Key::Character('a'));
    as_in_the_file("reading", &screen(&app, (80, 24), COLOURED));
}

/// Every column has a line in the help, and the help fits if it is complete.
#[test]
fn the_help_has_every_column() {
    let mut app = usual();
    let heads = screen(&app, (120, 40), COLOURED);
    let heads = heads.lines().find(|line| line.contains(" state "));
    let heads = heads.unwrap().to_owned();
    app.on_key(Key::Character('?'));
    for size in [(80, 24), (120, 40)] {
        let help = screen(&app, size, COLOURED);
        for head in heads.split_whitespace().skip(1) {
            let is_named = |line: &str| {
                let line = line.split_once('│').map_or("", |(_, line)| line);
                let names = line.get(..12).unwrap_or_default();
                names.split([' ', ',']).any(|name| name == head)
            };
            assert!(help.lines().any(is_named), "{head}: {help}");
        }
        for key in ["PgUp", "PgDn", "Home", "End", "-Z", "Enter", "this help"] {
            assert!(help.contains(key), "{key}: {help}");
        }
    }
}

#[test]
fn long_names_leave_the_numbers_whole() {
    let app = app(
        &named(&["fifteen-letters", "x", "日本語日本語日本語"]),
        |_| {},
    );
    as_in_the_file("long-names", &screen(&app, (80, 24), COLOURED));
}

#[test]
fn a_group_shows_its_links() {
    let group = |name: &str, active: &str, states: [&str; 2]| {
        let links = ["sixxs0", "wg-office"].iter().zip(states);
        let links = links.map(|(name, state)| json!({"name": name, "state": state}));
        json!({"name": name, "active": active, "active_seconds": 754.0, "switches": 3,
            "links": links.collect::<Vec<_>>(), "prefixes": ["2001:db8:cc::/48"], "table": 210,
            "routing": "in_place",
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}})
    };
    let app = app(&named(&["sixxs0", "wg-office"]), |status| {
        status["groups"] = json!([
            group("lan", "sixxs0", ["good", "good"]),
            group("guests", "sixxs0", ["good", "failing"]),
            group("servers", "wg-office", ["down", "failing"]),
        ]);
    });
    as_in_the_file("groups", &screen(&app, (80, 24), COLOURED));
    let narrow = screen(&app, (40, 12), COLOURED);
    assert!(
        !narrow.contains("carried by") || narrow.contains("sixxs0 (good)"),
        "{narrow}"
    );
}

#[test]
fn nothing_at_all() {
    let app = app(&[], |_| {});
    as_in_the_file("none", &screen(&app, (80, 24), COLOURED));
    let unknown = App::new(Model::new(Duration::from_secs(1)));
    assert!(screen(&unknown, (80, 24), COLOURED).contains("waiting for the daemon"));
}

#[test]
fn many_tunnels_scroll() {
    let mut app = app(&many(), |_| {});
    let shown = |app: &App| screen(app, (80, 24), COLOURED);
    assert!(shown(&app).contains("▸tunnel0 "), "{}", shown(&app));
    app.on_key(Key::End);
    as_in_the_file("many", &shown(&app));
    for (key, expected) in [
        (Key::PageUp, "▸tunnel189"),
        (Key::Up, "▸tunnel188"),
        (Key::Character('j'), "▸tunnel189"),
        (Key::Home, "▸tunnel0 "),
        (Key::Up, "▸tunnel0 "),
    ] {
        app.on_key(key);
        assert!(shown(&app).contains(expected), "{key:?}: {}", shown(&app));
    }
}

/// The cure of the newest alert is visible, with any amount of other content.
#[test]
fn the_newest_alert_is_whole() {
    let mut app = app(&many(), |status| {
        let problem = |number| format!("uplink net{number}: no program could be attached: EPERM");
        status["problems"] = (0..5).map(problem).collect();
    });
    app.model.add_alert(&leak(1, "it is bound to net0"));
    let mut longest: serde_json::Value = serde_json::from_str(&leak(2, "")).unwrap();
    let address = "2001:db8:1111:2222:3333:4444:5555:6666";
    for (key, value) in [
        ("source", json!(address)),
        ("destination", json!(address)),
        ("packets", json!(123_456_789)),
        ("unit", json!("a-service-with-a-long-name.service")),
        ("mark", json!(u32::MAX)),
        ("bound_to", json!("fifteen-letters")),
        (
            "why",
            json!("the sending socket is bound to fifteen-letters: it never asks the rules"),
        ),
        (
            "cure",
            json!("bind the program to the address, not to the interface. THE END"),
        ),
    ] {
        longest[key] = value;
    }
    app.model.add_alert(&longest.to_string());
    let shown = screen(&app, (80, 24), COLOURED);
    assert!(shown.contains("THE END"), "{shown}");
    as_in_the_file("newest", &shown);
}

#[test]
fn the_daemon_is_gone() {
    let mut app = app(&named(&["sixxs0"]), |_| {});
    app.model
        .set_lost("12:03:11".into(), "it is not running".into());
    app.model
        .set_lost("12:03:12".into(), "it is not running".into());
    as_in_the_file("lost", &screen(&app, (80, 24), COLOURED));
}

/// Untrusted text sends no control characters to the terminal, at any size.
#[test]
fn nobody_steers_the_terminal() {
    let evil = "\x1b]0;owned\x07\x1b[2J\r\n\u{9b}31m\u{202e}日本\u{200d}語 ".repeat(20);
    let mut app = app(&named(&["\x1b[31m", "sixxs1"]), |status| {
        status["problems"] = json!([evil]);
        status["tunnels"][0]["state"] = evil.clone().into();
        status["tunnels"][0]["endpoint"] = evil.clone().into();
        status["tunnels"][0]["reason"] = evil.clone().into();
        status["uplinks"][0]["program"] = evil.clone().into();
    });
    app.model.add_alert(&leak(1, &evil));
    app.model.add_alert(&evil);
    let mut other = app.clone();
    other.model.set_lost(evil.clone(), evil.clone());
    other.done(Verb::Stop, &evil, Err(anyhow::anyhow!(evil.clone())));
    for app in [&mut app, &mut other] {
        for key in ['a', '?', '?', 'd'] {
            for size in SIZES.into_iter().chain([(1, 1), (3, 2), (9, 40), (300, 3)]) {
                for theme in [COLOURED, PLAIN] {
                    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
                    let drawn = terminal.draw(|frame| {
                        let area = frame.area();
                        draw(app, theme, area, frame.buffer_mut());
                    });
                    drawn.unwrap();
                    for cell in terminal.backend().buffer().content() {
                        let symbol = cell.symbol();
                        let steers = |c: char| c.is_control() || "\u{202e}\u{200d}".contains(c);
                        assert!(!symbol.chars().any(steers), "{symbol:?} at {size:?}");
                        assert!(!theme.ascii || symbol.is_ascii(), "{symbol:?} at {size:?}");
                    }
                }
            }
            app.on_key(Key::Character(key));
        }
    }
}

#[test]
fn without_colour_there_is_none() {
    let app = usual();
    let colours = |theme| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let drawn = terminal.draw(|frame| {
            let area = frame.area();
            draw(&app, theme, area, frame.buffer_mut());
        });
        drawn.unwrap();
        let cells = terminal.backend().buffer().content();
        let coloured = cells
            .iter()
            .filter(|cell| cell.fg != ratatui_core::style::Color::Reset);
        coloured.count()
    };
    assert_eq!(colours(PLAIN), 0);
    assert!(colours(COLOURED) > 0);
}

#[test]
fn parts_never_exceed_the_screen() {
    for height in 0..200 {
        for tunnels in [0, 1, 2, 10, 200, 100_000] {
            for (groups, uplinks) in [(0, 0), (0, 1), (1, 1), (0, 5), (5, 0), (100_000, 100_000)] {
                for (alerts, reading) in [(0, false), (7, false), (100_000, false), (0, true)] {
                    let counts = Counts {
                        tunnels,
                        groups,
                        uplinks,
                        alerts,
                    };
                    let parts = Parts::new(height, counts, reading);
                    let Parts {
                        head,
                        tunnels,
                        detail,
                        groups,
                        uplinks,
                        alerts,
                        foot,
                    } = parts;
                    let all = head + tunnels + detail + groups + uplinks + alerts + foot;
                    assert_eq!(all, height, "{parts:?}");
                    assert!(height < 4 || tunnels >= 2, "{height}: {parts:?}");
                }
            }
        }
    }
}
