//! Terminals for programs with a screen: tmux with its own server, which is killed on drop.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::netns::Namespace;
use crate::program::Program;
use crate::{shell, wait};

/// Limit for each wait.
const LIMIT: Duration = Duration::from_secs(15);

/// A terminal with a shell, in the host of a lab.
#[derive(Debug)]
pub struct Tmux {
    server: String,
}

/// The shell's prompt.
pub const PROMPT: &str = "ready$";

impl Tmux {
    /// Starts a shell in a terminal with this number of columns and rows. The shell has the program's
    /// environment, and the variables in `environment` (`NAME=value`).
    pub fn start(
        host: &Namespace,
        program: &Program,
        (columns, rows): (u16, u16),
        environment: &[&str],
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmux = Self {
            server: format!("sixxs-{}-{number}", std::process::id()),
        };
        let mut command = host.command("tmux");
        program.apply_environment(&mut command);
        command
            .args(["-L", &tmux.server, "-f", "/dev/null"])
            .args(["new-session", "-d"])
            .args(["-x", &columns.to_string(), "-y", &rows.to_string()])
            // Without the user's files, and without variables that affect colours or the locale.
            .args(["env", "-u", "NO_COLOR", "-u", "LC_CTYPE"])
            .args(["LC_ALL=C.UTF-8", "ENV=", "HISTFILE="])
            .arg(format!("PS1={PROMPT} "))
            .args(environment)
            .args(["sh", "-i"])
            // Do not inherit these from a tmux in which the test may run.
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8");
        shell::capture(&mut command)?;
        tmux.run(&["set-option", "-g", "status", "off"])?;
        tmux.run(&["set-option", "-g", "window-size", "manual"])?;
        tmux.resize((columns, rows))?;
        tmux.until("the shell is ready", |screen| screen.contains(PROMPT))?;
        Ok(tmux)
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<()> {
        self.run(&["send-keys", "-l", text])?;
        self.key("Enter")
    }

    /// Presses a key; the name is tmux's.
    pub fn key(&self, name: &str) -> Result<()> {
        self.run(&["send-keys", name]).map(drop)
    }

    /// Changes the size of the terminal.
    pub fn resize(&self, (columns, rows): (u16, u16)) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &columns, "-y", &rows])
            .map(drop)
    }

    /// The text on the screen.
    pub fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// The text on the screen, with colours as escape sequences.
    pub fn coloured_screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-e", "-p"])
    }

    /// A tmux variable of the terminal: `alternate_on`, `cursor_flag`…
    pub fn asked(&self, what: &str) -> Result<String> {
        let answer = self.run(&["display-message", "-p", &format!("#{{{what}}}")])?;
        Ok(answer.trim().to_owned())
    }

    /// Waits until the screen satisfies `good`, and returns its text.
    pub fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        let good = |screen: &String| good(screen);
        let seen = wait::until(what, LIMIT, || self.screen(), good);
        seen.with_context(|| match self.screen() {
            Ok(screen) => format!("the screen at the end:\n{screen}"),
            Err(error) => format!("{error:#}"),
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.server]).args(arguments);
        shell::capture(&mut tmux)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["kill-server"]) {
            eprintln!("kill tmux: {error:#}");
        }
    }
}
