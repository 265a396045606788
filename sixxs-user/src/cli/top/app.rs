//! The effect of keys: the state of the screen, and requests to the outside. Pure.

use super::{
    keys::Key,
    model::{Model, Sort},
};

/// The screen's state.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) model: Model,
    /// The model to show while paused.
    frozen: Option<Box<Model>>,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    /// By name, so that the selection stays when the order changes.
    selected: Option<String>,
    pub(super) over: Over,
    /// Whether the alerts have most of the screen, and the arrow keys scroll them.
    pub(super) reading: bool,
    /// Number of lines of alerts below the visible ones.
    pub(super) scrolled: usize,
    /// The last message about a request.
    pub(super) notice: Option<Notice>,
}

/// What is on top of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    #[default]
    Nothing,
    Help,
    /// The question whether to stop this tunnel.
    Stop(String),
}

/// A message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) bad: bool,
    /// Whether the request is still running; then the message stays until it ends.
    under_way: bool,
}

/// An action on a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    /// The name in the control socket's paths.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("starting", "started"),
            Self::Stop => ("stopping", "stopped"),
            Self::Restart => ("restarting", "restarted"),
        }
    }
}

/// A request by a key to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Quit,
    /// Suspend the process, like the shell's job control.
    Suspend,
    /// Redraw the terminal completely.
    DrawAnew,
    Do(Verb, String),
}

/// Number of rows that PageUp and PageDown move.
const PAGE: usize = 10;

impl App {
    pub(super) fn new(model: Model) -> Self {
        Self {
            model,
            frozen: None,
            sort: Sort::default(),
            reverse: false,
            selected: None,
            over: Over::default(),
            reading: false,
            scrolled: 0,
            notice: None,
        }
    }

    /// The model to show.
    pub(super) fn shown(&self) -> &Model {
        self.frozen.as_deref().unwrap_or(&self.model)
    }

    /// Whether the display is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// The position of the selected tunnel among those shown; 0 if it is gone.
    pub(super) fn selected(&self) -> usize {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let is_selected = |name: &str| self.selected.as_deref() == Some(name);
        let place = tunnels
            .iter()
            .position(|(tunnel, _)| is_selected(&tunnel.name));
        place.unwrap_or(0)
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: Key) -> Act {
        if self.notice.as_ref().is_some_and(|notice| !notice.under_way) {
            self.notice = None;
        }
        match key {
            Key::Control('c') => return Act::Quit,
            Key::Control('z') => return Act::Suspend,
            Key::Control('l') => return Act::DrawAnew,
            _ => {}
        }
        match std::mem::take(&mut self.over) {
            Over::Nothing => {}
            Over::Help => {
                return match key {
                    Key::Character('q') => Act::Quit,
                    _ => Act::Nothing,
                };
            }
            Over::Stop(name) => {
                if matches!(key, Key::Character('y' | 'Y')) {
                    return self.ask(Verb::Stop, name);
                }
                self.say(format!("{name} is not stopped"), false);
                return Act::Nothing;
            }
        }
        match key {
            Key::Character('q') => return Act::Quit,
            Key::Character('?' | 'h') => self.over = Over::Help,
            Key::Character('a') => self.read(!self.reading),
            Key::Escape => self.read(false),
            Key::Character('s') => self.sort = self.sort.next(),
            Key::Character('S') => self.reverse = !self.reverse,
            Key::Character('p') => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Box::new(self.model.clone())),
                };
            }
            Key::Character('u') | Key::Enter => return self.ask_selected(Verb::Start),
            Key::Character('r') => return self.ask_selected(Verb::Restart),
            Key::Character('d') => {
                if let Some(name) = self.selected_name() {
                    self.over = Over::Stop(name);
                }
            }
            Key::Up | Key::Character('k') => self.up(1),
            Key::Down | Key::Character('j') => self.down(1),
            Key::PageUp => self.up(PAGE),
            Key::PageDown => self.down(PAGE),
            Key::Home => self.up(usize::MAX),
            Key::End => self.down(usize::MAX),
            _ => {}
        }
        Act::Nothing
    }

    /// Handles the result of a request to the daemon.
    pub(super) fn done(&mut self, verb: Verb, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.say(format!("{name} {}", verb.words().1), false),
            Err(why) => self.say(format!("{} {name}: {why}", verb.name()), true),
        }
    }

    fn read(&mut self, reading: bool) {
        self.reading = reading;
        self.scrolled = 0;
    }

    fn up(&mut self, by: usize) {
        if self.reading {
            // The view limits it to the number of lines.
            self.scrolled = self.scrolled.saturating_add(by);
        } else {
            self.select(self.selected().saturating_sub(by));
        }
    }

    fn down(&mut self, by: usize) {
        if self.reading {
            self.scrolled = self.scrolled.saturating_sub(by);
        } else {
            self.select(self.selected().saturating_add(by));
        }
    }

    fn select(&mut self, place: usize) {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let last = tunnels.len().saturating_sub(1);
        let name = tunnels.get(place.min(last));
        let name = name.map(|(tunnel, _)| tunnel.name.clone());
        self.selected = name;
    }

    fn selected_name(&self) -> Option<String> {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let (tunnel, _) = tunnels.get(self.selected())?;
        Some(tunnel.name.clone())
    }

    fn ask_selected(&mut self, verb: Verb) -> Act {
        match self.selected_name() {
            Some(name) => self.ask(verb, name),
            None => Act::Nothing,
        }
    }

    fn ask(&mut self, verb: Verb, name: String) -> Act {
        self.notice = Some(Notice {
            text: format!("{} {name} …", verb.words().0),
            bad: false,
            under_way: true,
        });
        Act::Do(verb, name)
    }

    fn say(&mut self, text: String, bad: bool) {
        self.notice = Some(Notice {
            text,
            bad,
            under_way: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn app() -> App {
        let tunnel = |name| {
            json!({"name": name, "kind": "interface", "state": "up", "ifindex": 7, "addresses": [],
                "prefixes": [], "table": 200, "mtu": 1280, "routing": "in_place",
                "program": "attached", "packets": {"in": 0, "out": 0},
                "bytes": {"in": 0, "out": 0},
                "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0},
                "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0},
                "strays": 0})
        };
        let status = json!({"healthy": true, "corrections": 0, "uplinks": [], "problems": [],
            "tunnels": [tunnel("b"), tunnel("a")]});
        let mut model = Model::new(Duration::from_secs(1));
        model.take(serde_json::from_value(status).unwrap(), Duration::ZERO);
        App::new(model)
    }

    fn press(app: &mut App, keys: &str) -> Vec<Act> {
        let acts = keys.chars().map(|key| app.key(Key::Character(key)));
        acts.filter(|act| *act != Act::Nothing).collect()
    }

    #[test]
    fn only_yes_stops_a_tunnel() {
        for (keys, expected) in [
            ("dy", vec![Act::Do(Verb::Stop, "b".into())]),
            ("dY", vec![Act::Do(Verb::Stop, "b".into())]),
            ("dn", vec![]),
            ("dq", vec![]),
            ("ddy", vec![]),
            ("jdy", vec![Act::Do(Verb::Stop, "a".into())]),
            ("u", vec![Act::Do(Verb::Start, "b".into())]),
            ("jr", vec![Act::Do(Verb::Restart, "a".into())]),
            ("?q", vec![Act::Quit]),
            ("?u", vec![]),
            ("q", vec![Act::Quit]),
        ] {
            assert_eq!(press(&mut app(), keys), expected, "{keys}");
        }
    }

    #[test]
    fn the_selected_stays_when_the_order_changes() {
        let mut app = app();
        press(&mut app, "j");
        assert_eq!(app.selected(), 1);
        press(&mut app, "s");
        assert_eq!(app.sort, Sort::Name);
        assert_eq!(app.selected(), 0);
        // While the question is open, a change of the order does not change its subject.
        press(&mut app, "d");
        app.sort = Sort::File;
        assert_eq!(press(&mut app, "y"), [Act::Do(Verb::Stop, "a".into())]);
    }

    #[test]
    fn what_is_said_goes_with_the_next_key_unless_it_goes_on() {
        let mut app = app();
        press(&mut app, "u");
        press(&mut app, "j");
        assert_eq!(app.notice.as_ref().unwrap().text, "starting b …");
        app.done(Verb::Start, "b", Err("not root".into()));
        assert_eq!(app.notice.as_ref().unwrap().text, "start b: not root");
        press(&mut app, "j");
        assert_eq!(app.notice, None);
    }

    #[test]
    fn time_stands_still() {
        let mut app = app();
        press(&mut app, "p");
        let mut status = app.model.status().unwrap().clone();
        status.corrections = 9;
        app.model.take(status, Duration::from_secs(1));
        assert_eq!(app.shown().status().unwrap().corrections, 0);
        press(&mut app, "p");
        assert_eq!(app.shown().status().unwrap().corrections, 9);
    }

    #[test]
    fn keys_in_an_empty_table_do_nothing() {
        let mut app = App::new(Model::new(Duration::from_secs(1)));
        assert_eq!(press(&mut app, "jkdurspa?"), []);
        app.key(Key::End);
        assert_eq!(app.selected(), 0);
    }
}
