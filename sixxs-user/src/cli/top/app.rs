//! The effect of keys: the state of the screen, and requests to the outside. Pure.

use super::{
    keys::Key,
    model::{Model, Sort},
};
use crate::control::Verb;

/// Number of rows that PageUp and PageDown move.
const PAGE: usize = 10;

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
    pub(super) overlay: Overlay,
    /// Whether the alerts have most of the screen, and the arrow keys scroll them.
    pub(super) reading: bool,
    /// Number of lines of alerts below the visible ones.
    pub(super) scrolled: usize,
    /// The last message about a request.
    pub(super) notice: Option<Notice>,
}

/// What is on top of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Overlay {
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

/// The effect of a key outside of the screen's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    /// Suspend the process, like the shell's job control.
    Suspend,
    /// Redraw the terminal completely.
    Redraw,
    /// Make the daemon start, stop or restart a tunnel.
    Request(Verb, String),
}

impl App {
    pub(super) fn new(model: Model) -> Self {
        Self {
            model,
            frozen: None,
            sort: Sort::default(),
            reverse: false,
            selected: None,
            overlay: Overlay::default(),
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

    /// The row of the selected tunnel among those shown; 0 if it is gone.
    pub(super) fn selected_row(&self) -> usize {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let is_selected = |name: &str| self.selected.as_deref() == Some(name);
        let row = tunnels
            .iter()
            .position(|(tunnel, _)| is_selected(&tunnel.name));
        row.unwrap_or(0)
    }

    pub(super) fn on_key(&mut self, key: Key) -> Effect {
        if self.notice.as_ref().is_some_and(|notice| !notice.under_way) {
            self.notice = None;
        }
        if let Some(effect) = on_global_key(key) {
            return effect;
        }
        match std::mem::take(&mut self.overlay) {
            Overlay::Nothing => self.on_table_key(key),
            overlay => self.on_overlay_key(overlay, key),
        }
    }

    /// Handles a key while something covers the screen: any key closes it.
    fn on_overlay_key(&mut self, overlay: Overlay, key: Key) -> Effect {
        match (overlay, key) {
            (Overlay::Help, Key::Character('q')) => Effect::Quit,
            (Overlay::Stop(name), Key::Character('y' | 'Y')) => self.request(Verb::Stop, name),
            (Overlay::Stop(name), _) => {
                self.set_notice(format!("{name} is not stopped"), false);
                Effect::Nothing
            }
            (Overlay::Help | Overlay::Nothing, _) => Effect::Nothing,
        }
    }

    /// Handles a key while tunnels and alerts are the whole screen.
    fn on_table_key(&mut self, key: Key) -> Effect {
        match key {
            Key::Character('q') => return Effect::Quit,
            Key::Character('u') | Key::Enter => return self.request_for_selected(Verb::Start),
            Key::Character('r') => return self.request_for_selected(Verb::Restart),
            Key::Character('d') => {
                if let Some(name) = self.selected_name() {
                    self.overlay = Overlay::Stop(name);
                }
            }
            Key::Character('?' | 'h') => self.overlay = Overlay::Help,
            Key::Character('a') => self.set_reading(!self.reading),
            Key::Escape => self.set_reading(false),
            Key::Character('s') => self.sort = self.sort.next(),
            Key::Character('S') => self.reverse = !self.reverse,
            Key::Character('p') => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Box::new(self.model.clone())),
                };
            }
            Key::Up | Key::Character('k') => self.up(1),
            Key::Down | Key::Character('j') => self.down(1),
            Key::PageUp => self.up(PAGE),
            Key::PageDown => self.down(PAGE),
            Key::Home => self.up(usize::MAX),
            Key::End => self.down(usize::MAX),
            _ => {}
        }
        Effect::Nothing
    }

    /// Handles the result of a request to the daemon.
    pub(super) fn done(&mut self, verb: Verb, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.set_notice(format!("{name} {}", words(verb).1), false),
            Err(error) => self.set_notice(format!("{} {name}: {error:#}", verb.name()), true),
        }
    }

    fn set_reading(&mut self, reading: bool) {
        self.reading = reading;
        self.scrolled = 0;
    }

    fn up(&mut self, by: usize) {
        if self.reading {
            // The view limits it to the number of lines.
            self.scrolled = self.scrolled.saturating_add(by);
        } else {
            self.select(self.selected_row().saturating_sub(by));
        }
    }

    fn down(&mut self, by: usize) {
        if self.reading {
            self.scrolled = self.scrolled.saturating_sub(by);
        } else {
            self.select(self.selected_row().saturating_add(by));
        }
    }

    fn select(&mut self, row: usize) {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let last = tunnels.len().saturating_sub(1);
        let name = tunnels.get(row.min(last));
        let name = name.map(|(tunnel, _)| tunnel.name.clone());
        self.selected = name;
    }

    fn selected_name(&self) -> Option<String> {
        let tunnels = self.shown().tunnels(self.sort, self.reverse);
        let (tunnel, _) = tunnels.get(self.selected_row())?;
        Some(tunnel.name.clone())
    }

    fn request_for_selected(&mut self, verb: Verb) -> Effect {
        match self.selected_name() {
            Some(name) => self.request(verb, name),
            None => Effect::Nothing,
        }
    }

    fn request(&mut self, verb: Verb, name: String) -> Effect {
        self.notice = Some(Notice {
            text: format!("{} {name} …", words(verb).0),
            bad: false,
            under_way: true,
        });
        Effect::Request(verb, name)
    }

    fn set_notice(&mut self, text: String, bad: bool) {
        self.notice = Some(Notice {
            text,
            bad,
            under_way: false,
        });
    }
}

/// Handles a key that does the same on every screen.
fn on_global_key(key: Key) -> Option<Effect> {
    match key {
        Key::Control('c') => Some(Effect::Quit),
        Key::Control('z') => Some(Effect::Suspend),
        Key::Control('l') => Some(Effect::Redraw),
        _ => None,
    }
}

/// The words for an action that is running, and for one that is complete.
fn words(verb: Verb) -> (&'static str, &'static str) {
    match verb {
        Verb::Start => ("starting", "started"),
        Verb::Stop => ("stopping", "stopped"),
        Verb::Restart => ("restarting", "restarted"),
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
        model.set_status(serde_json::from_value(status).unwrap(), Duration::ZERO);
        App::new(model)
    }

    fn press(app: &mut App, keys: &str) -> Vec<Effect> {
        let effects = keys.chars().map(|key| app.on_key(Key::Character(key)));
        effects
            .filter(|effect| *effect != Effect::Nothing)
            .collect()
    }

    #[test]
    fn only_yes_stops_a_tunnel() {
        for (keys, expected) in [
            ("dy", vec![Effect::Request(Verb::Stop, "b".into())]),
            ("dY", vec![Effect::Request(Verb::Stop, "b".into())]),
            ("dn", vec![]),
            ("dq", vec![]),
            ("ddy", vec![]),
            ("jdy", vec![Effect::Request(Verb::Stop, "a".into())]),
            ("u", vec![Effect::Request(Verb::Start, "b".into())]),
            ("jr", vec![Effect::Request(Verb::Restart, "a".into())]),
            ("?q", vec![Effect::Quit]),
            ("?u", vec![]),
            ("q", vec![Effect::Quit]),
        ] {
            assert_eq!(press(&mut app(), keys), expected, "{keys}");
        }
    }

    #[test]
    fn the_selected_stays_when_the_order_changes() {
        let mut app = app();
        press(&mut app, "j");
        assert_eq!(app.selected_row(), 1);
        press(&mut app, "s");
        assert_eq!(app.sort, Sort::Name);
        assert_eq!(app.selected_row(), 0);
        // While the question is open, a change of the order does not change its subject.
        press(&mut app, "d");
        app.sort = Sort::File;
        assert_eq!(
            press(&mut app, "y"),
            [Effect::Request(Verb::Stop, "a".into())]
        );
    }

    #[test]
    fn a_notice_ends_with_the_next_key_unless_its_request_runs() {
        let mut app = app();
        press(&mut app, "u");
        press(&mut app, "j");
        assert_eq!(app.notice.as_ref().unwrap().text, "starting b …");
        app.done(Verb::Start, "b", Err(anyhow::anyhow!("not root")));
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
        app.model.set_status(status, Duration::from_secs(1));
        assert_eq!(app.shown().status().unwrap().corrections, 0);
        press(&mut app, "p");
        assert_eq!(app.shown().status().unwrap().corrections, 9);
    }

    #[test]
    fn keys_in_an_empty_table_do_nothing() {
        let mut app = App::new(Model::new(Duration::from_secs(1)));
        assert_eq!(press(&mut app, "jkdurspa?"), []);
        app.on_key(Key::End);
        assert_eq!(app.selected_row(), 0);
    }
}
