//! Endpoint updates: the broker learns this host's IPv4 address from a web server like Hurricane Electric's.

mod address_changes;
mod misbehaviour;
mod secrets;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::hurricane::account::{Account, TunnelData};
use sixxs_tests::broker::hurricane::{Hurricane, Request};
use sixxs_tests::lab::topology::{HOST4, TIC_SERVER};
use sixxs_tests::lab::{Spec, Tunnel};
use sixxs_tests::probe::Ping;
use sixxs_tests::program::status::{Status, Update};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

pub(crate) const USER: &str = "labuser";
pub(crate) const KEY: &str = "open sesame of the tunnel";
pub(crate) const TUNNEL_ID: u32 = 4711;
const SOON: Duration = Duration::from_secs(10);

/// These tests send more requests in a minute than a real host in a year.
const NO_LIMIT: &str = "[connect_limit]\nconnects = 1000\n";

/// A lab whose first tunnel is 6in4, with the web server of its broker.
pub(crate) struct Story {
    pub(crate) fixture: Fixture,
    pub(crate) server: Hurricane,
}

impl Story {
    fn new(spec: Spec, extra: &str) -> Result<Self> {
        let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
        let [tunnel, _] = fixture.lab.tunnels();
        let plan = tunnel.plan;
        let registrar = tunnel
            .broker()
            .map(|pop| (TUNNEL_ID, pop.registrar(plan.address)));
        let account = Account {
            user: USER.to_owned(),
            key: KEY.to_owned(),
            tunnels: vec![TunnelData {
                id: TUNNEL_ID,
                description: "lab".to_owned(),
                server4: plan.remote4,
                client4: HOST4,
                server6: format!("{}/64", plan.peer),
                client6: format!("{}/64", plan.address),
                routed64: "2001:db8:aa::/64".to_owned(),
                routed48: None,
                unchanged: 0,
            }],
        };
        let server = Hurricane::start(
            fixture.lab.outside(),
            SocketAddr::new(TIC_SERVER.into(), 443),
            account,
            registrar.into_iter().collect::<BTreeMap<_, _>>(),
        )?;
        let story = Self { fixture, server };
        fs::write(story.file("he-ca.pem"), story.server.authority_pem())?;
        story.write_key(KEY)?;
        story.configure(extra, &TUNNEL_ID.to_string())?;
        Ok(story)
    }

    pub(crate) fn native(extra: &str) -> Result<Self> {
        Self::new(Spec::native([Kind::SixInFour, Kind::Ayiya]), extra)
    }

    /// A file beside the configuration.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.fixture.lab.paths().config().with_file_name(name)
    }

    fn write_key(&self, key: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.file("he.key");
        fs::write(&file, format!("{key}\n"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Writes the configuration, in which the first tunnel has updates for this host name.
    fn configure(&self, extra: &str, hostname: &str) -> Result<()> {
        let text = self.with_update(&self.fixture.lab.config(extra), hostname)?;
        self.fixture.lab.write_config(&text)?;
        Ok(())
    }

    fn with_update(&self, text: &str, hostname: &str) -> Result<String> {
        let update = format!(
            "\n[tunnel.update]\nurl = \"https://{TIC_SERVER}/nic/update\"\nuser = \"{USER}\"\n\
             password_file = \"he.key\"\nhostname = \"{hostname}\"\nca = \"he-ca.pem\"\n"
        );
        let mut tunnels = text.rmatch_indices("\n[[tunnel]]");
        let (second, _) = tunnels.next().context("two tunnels")?;
        let (first, second) = text.split_at(second);
        Ok(format!("{first}{update}{second}"))
    }

    /// Starts the daemon, and waits until both tunnels are up.
    pub(crate) fn start(&self) -> Result<Daemon> {
        let daemon = self.fixture.start()?;
        self.fixture.wait_until_up().with_context(|| daemon.log())?;
        Ok(daemon)
    }

    fn tunnel(&self) -> &Tunnel {
        &self.fixture.lab.tunnels()[0]
    }

    fn update_of(&self, status: &Status) -> Option<Update> {
        status.tunnel(self.tunnel().plan.interface).update.clone()
    }

    /// Waits until the update is in this state.
    fn update_until(&self, what: &str, good: impl Fn(&Update) -> bool) -> Result<Update> {
        let status = || Ok(self.update_of(&self.fixture.program.status()?));
        let is_good = |update: &Option<Update>| update.as_ref().is_some_and(&good);
        let update = wait::until(what, SOON, status, is_good)?;
        update.context("an update")
    }

    pub(crate) fn current_until(&self, address: Ipv4Addr) -> Result<Update> {
        let address = address.to_string();
        self.update_until(&format!("the broker has {address}"), |update| {
            update.state == "current" && update.address.as_ref() == Some(&address)
        })
    }

    /// Waits until the server has answered this number of requests.
    fn answered_until(&self, count: usize) -> Result<Vec<Request>> {
        let requests = || Ok(self.server.requests());
        let what = format!("{count} requests are answered");
        wait::until(&what, SOON, requests, |requests| {
            let answered = requests.iter().filter(|request| request.answered.is_some());
            answered.count() >= count
        })
    }

    /// The words that the server has answered.
    fn answers(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        let answers = requests.filter_map(|request| request.answered);
        answers.map(|(words, _)| words).collect()
    }

    /// Waits until a ping from outside is answered. Returns the time since `since`.
    fn ping_answered_after(&self, since: Instant) -> Result<Duration> {
        let address = self.tunnel().plan.address;
        let ping = || {
            Ping::new(address, 1)
                .limit(Duration::from_millis(50))
                .run(self.fixture.lab.outside())
        };
        wait::until("the tunnel answers", SOON, ping, |pings| {
            pings.answered == 1
        })?;
        Ok(since.elapsed())
    }
}
