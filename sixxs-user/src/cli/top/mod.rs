//! `sixxs top`: shows tunnels and uplinks live, on the whole terminal.
//!
//! `model` and `meter` hold the data, `app` handles keys, `view` draws; all of them are pure. This file has the
//! loop: data from the daemon (`source`), keys (`keys`) and signals change the state. The state is drawn into a
//! buffer (`backend`), which is written as fast as the terminal accepts it. A new frame is drawn only after
//! the last one is written, so that a slow line shows fewer frames, but never old ones.

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
use crate::{control::api::Status, control::client};

/// Time limit for the rest of a key's sequence, on a slow line.
const REST_OF_KEY: Duration = Duration::from_millis(150);

/// Minimum interval between frames that only new alerts cause.
const ALERT_PAUSE: Duration = Duration::from_secs(1);

/// Length of the queue; larger than the daemon's number of saved alerts.
const NEWS: usize = 4096;

/// Parses `--interval`: seconds, optionally with a fraction.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number of seconds")?;
    if !(0.2..=60.0).contains(&seconds) {
        return Err("not from 0.2 to 60 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Shows the screen until it is ended.
pub(super) async fn top(socket: &Path, every: Duration, ascii: bool) -> anyhow::Result<ExitCode> {
    if let Err(unfit) = terminal::check() {
        super::show::print_error(&unfit.to_string());
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    // Before taking the terminal, so that an error message appears normally.
    let status: Status = client::get(socket, "/v1/status").await?;
    let mut top = Top::open(socket.to_owned(), every, Theme::of_environment(ascii))?;
    top.learn(News::Status(Box::new(status), Instant::now()));
    let ended = top.run().await;
    drop(top);
    match ended {
        Ok(End::Asked) => Ok(ExitCode::SUCCESS),
        // The exit status of a shell for a process that a signal ended.
        Ok(End::Signal(number)) => Ok(ExitCode::from(128 + number)),
        // The terminal is gone, so a message is no use.
        Err(error) if error.is::<io::Error>() => Ok(ExitCode::from(super::FAILED)),
        Err(error) => Err(error),
    }
}

/// Why the screen ended, apart from errors.
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
    /// The rest of the last frame that is not written yet.
    unwritten: Vec<u8>,
    drawn: Instant,
    /// Whether the shown frame is out of date.
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

/// The effect of a signal.
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
        // Before taking the terminal: from then on, a signal must not end the process without restoring it.
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

    /// Runs until it is ended, or the terminal is gone.
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
                // `poll` and `follow` never end; the others have sent their result.
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

    /// Handles news from the daemon; returns whether to redraw at once.
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
            // The process was stopped by SIGSTOP, and the shell may have used the terminal since.
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

    /// Restores the terminal and stops. SIGCONT then redraws the screen.
    fn suspend(&mut self) -> anyhow::Result<()> {
        self.terminal.give_back();
        self.unwritten.clear();
        raise(Signal::SIGSTOP).context("stop")?;
        Ok(())
    }

    /// Redraws completely, regardless of the terminal's contents.
    fn draw_anew(&mut self) -> anyhow::Result<()> {
        self.unwritten.clear();
        let size = self.terminal.size();
        self.drawing.backend_mut().resize(size);
        self.drawing.clear()?;
        self.draw()
    }

    /// Draws a frame, unless the last one is still being written.
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
