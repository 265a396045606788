//! `sixxs top`: tunnels and uplinks live, on the whole terminal.
//!
//! `model` and `meter` know what there is, `app` what the keys do, `view` what that looks like; all of
//! them are pure. This file goes round: what comes from the daemon (`source`), from the keys (`keys`)
//! and as signals changes the state, which is drawn into a buffer (`backend`) that the terminal is
//! given as fast as it takes it. A picture is made only when the one before is written, so that a slow
//! line shows fewer of them and never old ones.

mod app;
mod backend;
mod keys;
mod meter;
mod model;
mod source;
mod terminal;
mod view;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::signal::{Signal, raise};
use ratatui_core::terminal::Terminal as Drawing;
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
    time::sleep,
};

use self::{
    app::{Act, App},
    backend::Sequences,
    keys::Keys,
    model::Model,
    source::News,
    terminal::Terminal,
    view::Theme,
};
use super::BAD_CONFIG;
use crate::{api::Status, client};

/// How long the rest of a key's sequence may take on a slow line.
const REST_OF_KEY: Duration = Duration::from_millis(150);

/// At most one picture in so long for alerts that come by themselves.
const ALERT_PAUSE: Duration = Duration::from_secs(1);

/// More than the daemon keeps of alerts.
const NEWS: usize = 4096;

/// Parses `--interval`: seconds, with a fraction if one likes.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number of seconds")?;
    if !(0.2..=60.0).contains(&seconds) {
        return Err("not from 0.2 to 60 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Shows it until it is ended.
pub(super) async fn top(socket: &Path, every: Duration, ascii: bool) -> anyhow::Result<ExitCode> {
    if let Err(unfit) = terminal::check() {
        super::show::complain(&unfit.to_string());
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    // Said while there is a line to say it on.
    let status: Status = client::get(socket, "/v1/status").await?;
    let mut top = Top::open(socket.to_owned(), every, Theme::of_environment(ascii))?;
    top.learn(News::Status(Box::new(status), Instant::now()));
    let ended = top.run().await;
    drop(top);
    match ended {
        Ok(End::Asked) => Ok(ExitCode::SUCCESS),
        // As a shell says it of a process that a signal ended.
        Ok(End::Signal(number)) => Ok(ExitCode::from(128 + number)),
        // A terminal that is gone has nobody before it.
        Err(error) if error.is::<io::Error>() => Ok(ExitCode::from(super::FAILED)),
        Err(error) => Err(error),
    }
}

/// Why it is over, beside the terminal's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Asked,
    Signal(u8),
}

struct Top {
    socket: PathBuf,
    app: App,
    theme: Theme,
    began: Instant,
    keys: Keys,
    drawing: Drawing<Sequences>,
    /// What of the last picture is not yet written.
    unwritten: Vec<u8>,
    drawn: Instant,
    /// What is shown is not what there is.
    stale: bool,
    news: Receiver<News>,
    tell: Sender<News>,
    tasks: JoinSet<()>,
    signals: Listened,
    terminal: Terminal,
}

struct Listened {
    hangup: Signals,
    interrupt: Signals,
    terminate: Signals,
    stop: Signals,
    go_on: Signals,
    resized: Signals,
}

/// What a signal asks for.
enum Told {
    End(u8),
    Stop,
    GoOn,
    Resized,
}

impl Listened {
    fn new() -> io::Result<Self> {
        let of = |which: Signal| signal(SignalKind::from_raw(which as i32));
        Ok(Self {
            hangup: of(Signal::SIGHUP)?,
            interrupt: of(Signal::SIGINT)?,
            terminate: of(Signal::SIGTERM)?,
            stop: of(Signal::SIGTSTP)?,
            go_on: of(Signal::SIGCONT)?,
            resized: of(Signal::SIGWINCH)?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::End(1),
            _ = self.interrupt.recv() => Told::End(2),
            _ = self.terminate.recv() => Told::End(15),
            _ = self.stop.recv() => Told::Stop,
            _ = self.go_on.recv() => Told::GoOn,
            _ = self.resized.recv() => Told::Resized,
        }
    }
}

impl Top {
    fn open(socket: PathBuf, every: Duration, theme: Theme) -> anyhow::Result<Self> {
        // Before the terminal is taken: from then on none may end the process unheard.
        let signals = Listened::new().context("listen for signals")?;
        let terminal = Terminal::open()?;
        let drawing = Drawing::new(Sequences::new(terminal.size()))?;
        let (tell, news) = channel(NEWS);
        let mut tasks = JoinSet::new();
        tasks.spawn(source::poll(socket.clone(), every, tell.clone()));
        tasks.spawn(source::follow(socket.clone(), tell.clone()));
        let now = Instant::now();
        Ok(Self {
            socket,
            app: App::new(Model::new(every)),
            theme,
            began: now,
            keys: Keys::default(),
            drawing,
            unwritten: Vec::new(),
            drawn: now,
            stale: true,
            news,
            tell,
            tasks,
            signals,
            terminal,
        })
    }

    /// Until it is asked to end, or the terminal is gone.
    async fn run(&mut self) -> anyhow::Result<End> {
        let mut typed = [0; 256];
        self.draw()?;
        loop {
            let writing = !self.unwritten.is_empty();
            let waiting = self.stale && !writing;
            let pause = ALERT_PAUSE.saturating_sub(self.drawn.elapsed());
            let end = tokio::select! {
                told = self.signals.next() => self.heed(told)?,
                read = self.terminal.read(&mut typed) => {
                    let keys = self.keys.take(&typed[..read?]);
                    self.press(keys)?
                }
                () = sleep(REST_OF_KEY), if self.keys.is_pending() => {
                    let keys = self.keys.give_up();
                    self.press(keys)?
                }
                written = self.terminal.write(&self.unwritten), if writing => {
                    self.unwritten.drain(..written?);
                    None
                }
                Some(news) = self.news.recv() => {
                    if self.learn(news) {
                        self.draw()?;
                    }
                    None
                }
                () = sleep(pause), if waiting => {
                    self.draw()?;
                    None
                }
                // Those that go on for ever do not; those that ended have told what they did.
                Some(ended) = self.tasks.join_next() => {
                    ended.context("a task of the screen ended")?;
                    None
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Takes in what the daemon says; true where it is to be shown at once.
    fn learn(&mut self, news: News) -> bool {
        self.stale = true;
        match news {
            News::Status(status, at) => {
                let at = at.saturating_duration_since(self.began);
                self.app.model.take(*status, at);
            }
            News::Lost(why) => {
                let now = jiff::Timestamp::now().to_string();
                self.app.model.lose(model::time_of_day(&now), why);
            }
            News::Alert(line) => {
                self.app.model.tell(&line);
                return false;
            }
            News::Done(verb, name, outcome) => self.app.done(verb, &name, outcome),
        }
        true
    }

    fn press(&mut self, keys: impl IntoIterator<Item = keys::Key>) -> anyhow::Result<Option<End>> {
        for key in keys {
            match self.app.key(key) {
                Act::Nothing => {}
                Act::Quit => return Ok(Some(End::Asked)),
                Act::Suspend => self.suspend()?,
                Act::DrawAnew => self.draw_anew()?,
                Act::Do(verb, name) => {
                    let (socket, tell) = (self.socket.clone(), self.tell.clone());
                    self.tasks.spawn(source::act(socket, verb, name, tell));
                }
            }
        }
        self.draw()?;
        Ok(None)
    }

    fn heed(&mut self, told: Told) -> anyhow::Result<Option<End>> {
        match told {
            Told::End(number) => return Ok(Some(End::Signal(number))),
            Told::Stop => self.suspend()?,
            // Somebody stopped us without a word, and the shell has had the terminal since.
            Told::GoOn => {
                self.terminal.take()?;
                self.draw_anew()?;
            }
            Told::Resized => {
                let size = self.terminal.size();
                self.drawing.backend_mut().resize(size);
                self.draw()?;
            }
        }
        Ok(None)
    }

    /// Gives the terminal back and stops, until somebody has us go on; that signal then draws.
    fn suspend(&mut self) -> anyhow::Result<()> {
        self.terminal.give_back();
        self.unwritten.clear();
        raise(Signal::SIGSTOP).context("stop")?;
        Ok(())
    }

    /// Whatever the terminal shows.
    fn draw_anew(&mut self) -> anyhow::Result<()> {
        self.unwritten.clear();
        let size = self.terminal.size();
        self.drawing.backend_mut().resize(size);
        self.drawing.clear()?;
        self.draw()
    }

    /// Makes a picture, unless the last one is still being written.
    fn draw(&mut self) -> anyhow::Result<()> {
        if !self.unwritten.is_empty() {
            self.stale = true;
            return Ok(());
        }
        let (app, theme) = (&self.app, self.theme);
        self.drawing.draw(|frame| {
            let area = frame.area();
            view::draw(app, theme, area, frame.buffer_mut());
        })?;
        self.unwritten = self.drawing.backend_mut().take().into_bytes();
        self.drawn = Instant::now();
        self.stale = false;
        Ok(())
    }
}
