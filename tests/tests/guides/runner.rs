//! Owns the runner of guides: it writes the files, runs the commands, and compares their output.
//!
//! The lab has no systemd, so `systemctl` is simulated: it starts, stops and reloads the daemon of `sixxs`
//! as its unit does, and restarts the real `systemd-networkd`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sixxs_tests::lab::Lab;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::network_managers::{self, networkd::Networkd};
use sixxs_tests::program::{Daemon, Hook, Output, Program, finish};
use sixxs_tests::wait;

use crate::markdown::{Action, Guide, Prompt, Step};
use crate::output_match::matches;
use crate::sandbox::Sandbox;

/// Limit until the output matches. A tunnel may come up a moment after the command.
const LIMIT: Duration = Duration::from_secs(15);
/// Commands without effects, which may be repeated.
const REPEATABLE: [&str; 8] = [
    "ping ",
    "networkctl list",
    "sixxs status",
    "sixxs check",
    "sixxs alerts",
    "sixxs doctor",
    "sixxs plan",
    "sixxs explain",
];
/// Below /etc: systemd-networkd's files of interfaces, and its settings from the guides.
const NETWORKD_FILES: &str = "systemd/network";
pub(crate) const NETWORKD_SETTINGS: &str = "systemd/networkd.conf.d/10-sixxs.conf";

pub(crate) struct Runner<'a> {
    lab: &'a Lab,
    daemon: Option<Daemon>,
    networkd: Option<(Networkd, &'a [&'a str])>,
    program: Program,
    sandbox: Sandbox,
}

/// Removes the daemon's state, also after a failure.
impl Drop for Runner<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.type_in(Prompt::Host, "sixxs down") {
            eprintln!("sixxs down: {error:#}");
        }
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Result<Self> {
        Self::with(lab, None)
    }

    /// On a host with a systemd-networkd that is not started yet and will manage these interfaces.
    pub(crate) fn with_networkd(
        lab: &'a Lab,
        networkd: Networkd,
        managed: &'a [&str],
    ) -> Result<Self> {
        Self::with(lab, Some((networkd, managed)))
    }

    fn with(lab: &'a Lab, networkd: Option<(Networkd, &'a [&'a str])>) -> Result<Self> {
        let program = Program::new(lab, Hook::Auto)?;
        let binary = fs::canonicalize(program.binary()).context("find the program")?;
        let manager = networkd
            .is_some()
            .then(|| lab.paths().base().join(network_managers::DIRECTORY));
        Ok(Self {
            lab,
            daemon: None,
            networkd,
            program,
            sandbox: Sandbox::new(lab, &binary, manager.as_deref())?,
        })
    }

    /// Carries out the chapters that `is_meant` selects.
    pub(crate) fn follow(&mut self, guide: &Guide, is_meant: impl Fn(&str) -> bool) -> Result<()> {
        for step in &guide.steps {
            if is_meant(&step.chapter) {
                let done = self.step(step);
                if let (Err(_), Some(daemon)) = (&done, &self.daemon) {
                    println!("---- sixxs run printed ----\n{}", daemon.log());
                }
                done.with_context(|| format!("{}, line {}", guide.name, step.line))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match &step.action {
            Action::File { path, text } => self.write(path, text),
            Action::Command {
                at: Prompt::Host,
                line,
                printed,
                exits: 0,
            } if line.starts_with("systemctl ") => {
                ensure!(printed.is_empty(), "systemctl prints nothing");
                let words: Vec<_> = line.split_whitespace().skip(1).collect();
                self.systemctl(&words)
            }
            Action::Command {
                at,
                line,
                printed,
                exits,
            } => {
                let once = || self.type_in(*at, line);
                let is_right = |seen: &Output| {
                    let all = format!("{}{}", seen.stdout, seen.stderr);
                    seen.code == *exits && matches(printed, &all)
                };
                let looks = REPEATABLE.iter().any(|look| line.starts_with(look));
                let limit = if looks { LIMIT } else { Duration::ZERO };
                let seen = wait::until(&format!("{line} prints this"), limit, once, is_right)?;
                println!("{line}\n{}{}", seen.stdout, seen.stderr);
                Ok(())
            }
        }
    }

    /// Writes a file as an editor does, with the usual umask.
    fn write(&self, path: &str, text: &str) -> Result<()> {
        let below = path.strip_prefix("/etc/");
        let path = self
            .sandbox
            .etc(below.context("only files in /etc are in the sandbox")?);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// With bash: the shell of busybox, which the virtual machine has, would run its own `ping`.
    fn type_in(&self, at: Prompt, line: &str) -> Result<Output> {
        finish(
            self.sandbox
                .command(self.node(at)?, "bash")
                .args(["-c", line]),
        )
    }

    fn node(&self, at: Prompt) -> Result<&Namespace> {
        Ok(match at {
            Prompt::Host => self.lab.host(),
            Prompt::Outside => self.lab.outside(),
            Prompt::Lan => {
                let [lan, _] = self.lab.lans()?;
                lan
            }
        })
    }

    fn systemctl(&mut self, words: &[&str]) -> Result<()> {
        match words {
            ["start", "sixxs"] => {
                ensure!(self.daemon.is_none(), "sixxs runs already");
                let mut run = self.sandbox.command(self.lab.host(), "sixxs");
                run.arg("run");
                self.daemon = Some(self.program.start_as(run)?);
            }
            ["reload", "sixxs"] => {
                let printed = self.type_in(Prompt::Host, "sixxs reload")?;
                ensure!(printed.code == 0, "{printed:#?}");
            }
            ["stop", "sixxs"] => {
                let code = self.daemon.take().context("sixxs does not run")?.stop()?;
                ensure!(code == 0, "sixxs run: exit status {code}");
            }
            ["restart", "sixxs"] => {
                self.systemctl(&["stop", "sixxs"])?;
                self.systemctl(&["start", "sixxs"])?;
            }
            ["restart", "systemd-networkd"] => self.restart_networkd()?,
            other => bail!("systemctl {other:?}: nothing of the lab's"),
        }
        Ok(())
    }

    /// Its sandbox has a /etc of its own; settings and files are copied into it.
    fn restart_networkd(&mut self) -> Result<()> {
        let settings = self.sandbox.etc(NETWORKD_SETTINGS);
        let files = self.sandbox.etc(NETWORKD_FILES);
        let (networkd, managed) = self.networkd.as_mut().context("there is no networkd")?;
        if networkd.is_running() {
            networkd.stop()?;
        }
        if settings.exists() {
            networkd.settings(&fs::read_to_string(&settings).context("read its settings")?)?;
        }
        for file in fs::read_dir(&files).context("list its files")? {
            let file = file.context("list its files")?;
            let name = file.file_name();
            let text = fs::read_to_string(file.path()).context("read a file of its")?;
            networkd.configure(&name.to_string_lossy(), &text)?;
        }
        networkd.start(managed)
    }
}
