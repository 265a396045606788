//! Asks a TIC server: the IO around [`sixxs_core::broker::tic`].
//!
//! Every connect takes a slot of the connect limit first, under the server's name and under the
//! address that it has. Everything has its time limit, and what the server sends is bounded by the
//! core. TLS is checked against the system's authorities unless told otherwise.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use rustls::pki_types::ServerName;
pub use sixxs_core::broker::tic::{Goal, Login, Outcome, Parameters, PopLine, Server, TunnelLine};
use sixxs_core::broker::{
    connects::Wait,
    tic::{self, Action, Agent, Class, Client},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

pub use super::tls::TlsChoice;
use super::{blocking, connects::Connects, tls::client_config};
use crate::clock::after;

/// What is asked, and of whom.
#[derive(Clone, Debug)]
pub struct Request {
    /// The server.
    pub server: Server,
    /// How it is checked to be that server.
    pub tls: TlsChoice,
    /// Who asks.
    pub login: Login,
    /// What for.
    pub goal: Goal,
    /// How long it may take.
    pub times: Times,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A step: resolving the name, the TLS handshake, an answer.
    pub step: Duration,
    /// All of it.
    pub whole: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            step: Duration::from_secs(10),
            whole: Duration::from_secs(30),
        }
    }
}

/// Nothing was got from the server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connect limit forbids it now; nothing was sent.
    #[error("{server}: {wait}")]
    Wait {
        /// The server.
        server: Server,
        /// For how long, and why.
        wait: Wait,
    },
    /// The server refused us for connecting too often, and has to be left alone.
    #[error("{server}: {error}; {wait}")]
    TooOften {
        /// The server.
        server: Server,
        /// With the server's words.
        error: tic::Error,
        /// For how long.
        wait: Wait,
    },
    /// The server was asked, and the answer is no use.
    #[error("{server}: {error}")]
    Dialogue {
        /// The server.
        server: Server,
        /// With the server's words.
        error: tic::Error,
    },
    /// It cannot be reached, or does not answer.
    #[error("{server}: {error:#}")]
    Network {
        /// The server.
        server: Server,
        /// What was tried.
        error: anyhow::Error,
    },
    /// TLS does not come about.
    #[error("{server}: start TLS: {error:#}")]
    Tls {
        /// The server.
        server: Server,
        /// Why.
        error: anyhow::Error,
    },
    /// Something on this host is wrong; nothing was sent.
    #[error("{0:#}")]
    Local(anyhow::Error),
}

/// When to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this time, not earlier.
    After(Wait),
    /// Later, at growing intervals.
    Later,
    /// When somebody has changed something: the same question has the same answer.
    WhenChanged,
}

impl Error {
    /// When to ask again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Wait { wait, .. } | Self::TooOften { wait, .. } => Retry::After(*wait),
            Self::Dialogue { error, .. } => match error.class() {
                Class::Refused | Class::Tls => Retry::WhenChanged,
                // The clock may well be set by somebody any moment.
                Class::Clock | Class::Unavailable | Class::Garbage | Class::TooOften => {
                    Retry::Later
                }
            },
            Self::Tls { .. } | Self::Network { .. } | Self::Local(_) => Retry::Later,
        }
    }
}

/// What this program says of itself and the host.
#[must_use]
pub fn agent() -> Agent {
    let kernel = |file: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap_or_default();
        let word = text.split_whitespace().next().unwrap_or("unknown");
        word.to_owned()
    };
    Agent {
        name: "sixxs".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: kernel("ostype"),
        release: kernel("osrelease"),
    }
}

/// Asks, with one connect; with a second one where the server has both an IPv4 and an IPv6 address
/// and the first cannot be reached.
pub async fn fetch(request: Request, connects: &Connects) -> Result<Outcome, Error> {
    let server = request.server.clone();
    let whole = request.times.whole;
    match timeout(whole, Fetch { request, connects }.run()).await {
        Ok(result) => result,
        Err(_) => Err(Error::Network {
            server,
            error: anyhow!("the dialogue took longer than {whole:?}"),
        }),
    }
}

struct Fetch<'a> {
    request: Request,
    connects: &'a Connects,
}

/// How a part of the dialogue ended.
enum End {
    Tls,
    Done(Outcome),
}

/// Why it did not get there.
enum Broken {
    Network(anyhow::Error),
    Dialogue(tic::Error),
}

impl Fetch<'_> {
    async fn run(&self) -> Result<Outcome, Error> {
        let Request { login, goal, .. } = &self.request;
        let client =
            Client::new(login.clone(), goal.clone()).map_err(|error| self.dialogue(error))?;
        // What is wrong on this side shows before a slot is spent.
        let tls = self.tls().await.map_err(Error::Local)?;
        let (stream, address) = self.connect().await?;
        self.converse(stream, client, tls, address).await
    }

    async fn converse(
        &self,
        mut stream: TcpStream,
        mut client: Client,
        tls: TlsConnector,
        address: IpAddr,
    ) -> Result<Outcome, Error> {
        let mut ended = self.part(&mut stream, &mut client, Vec::new()).await;
        if let Ok(End::Tls) = ended {
            let mut stream = self.handshake(stream, tls).await?;
            let actions = client.tls_is_up();
            ended = self.part(&mut stream, &mut client, actions).await;
        }
        match ended {
            Ok(End::Done(outcome)) => Ok(outcome),
            Ok(End::Tls) => Err(self.network(anyhow!("TLS within TLS"))),
            Err(Broken::Network(error)) => Err(self.network(error)),
            Err(Broken::Dialogue(error)) if error.class() == Class::TooOften => {
                let names = [self.request.server.host.clone(), address.to_string()];
                let names = names.each_ref().map(String::as_str);
                let wait = self.connects.refused_each(&names).await;
                let wait = wait.map_err(|e| Error::Local(e.context(error.to_string())))?;
                Err(Error::TooOften {
                    server: self.request.server.clone(),
                    error,
                    wait,
                })
            }
            Err(Broken::Dialogue(error)) => Err(self.dialogue(error)),
        }
    }

    /// The dialogue until TLS begins or all is said.
    async fn part<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        client: &mut Client,
        mut actions: Vec<Action>,
    ) -> Result<End, Broken> {
        let mut buffer = Zeroizing::new([0; 4096]);
        loop {
            // A server that sends a byte now and then does not win time by it.
            let until = after(Instant::now(), self.request.times.step);
            for action in actions.drain(..) {
                match action {
                    Action::Send(bytes) => {
                        let sent = timeout_at(until, send(stream, &bytes)).await;
                        let sent = sent.map_err(|_| self.silent(client))?;
                        sent.context("send").map_err(Broken::Network)?;
                    }
                    Action::StartTls => return Ok(End::Tls),
                    Action::Done(outcome) => {
                        // All is said: how the connection ends does not matter any more.
                        let _closed = timeout(Duration::from_secs(1), stream.shutdown()).await;
                        return Ok(End::Done(outcome));
                    }
                }
            }
            while actions.is_empty() {
                let read = timeout_at(until, stream.read(&mut buffer[..])).await;
                let read = match read.map_err(|_| self.silent(client))? {
                    // TLS without its farewell, which changes nothing here.
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
                    read => read.context("receive").map_err(Broken::Network)?,
                };
                if read == 0 {
                    let closed = client.closed();
                    let closed = closed.map_or_else(
                        || Broken::Network(anyhow!("the server closed the connection")),
                        Broken::Dialogue,
                    );
                    return Err(closed);
                }
                let now = jiff::Timestamp::now().as_second();
                let now = u64::try_from(now).unwrap_or_default();
                actions = client
                    .received(&buffer[..read], now)
                    .map_err(Broken::Dialogue)?;
            }
        }
    }

    fn silent(&self, client: &Client) -> Broken {
        let step = self.request.times.step;
        Broken::Network(anyhow!("{}: no answer within {step:?}", client.stage()))
    }

    async fn connect(&self) -> Result<(TcpStream, IpAddr), Error> {
        let addresses = self.resolve().await.map_err(|e| self.network(e))?;
        let mut failed = None;
        for address in addresses {
            let ip = address.ip().to_string();
            let names = [self.request.server.host.as_str(), ip.as_str()];
            let slot = match self.connects.take_each(&names).await {
                Ok(Ok(slot)) => slot,
                // What already went wrong says more.
                Ok(Err(wait)) => {
                    return Err(failed.unwrap_or_else(|| Error::Wait {
                        server: self.request.server.clone(),
                        wait,
                    }));
                }
                Err(error) => return Err(Error::Local(error)),
            };
            let Some(left) = slot.left().map_err(Error::Local)? else {
                let error = anyhow!("recording the connect took too long; the disk is slow");
                return Err(Error::Local(error));
            };
            let limit = left.min(self.request.times.step);
            let connected = timeout(limit, TcpStream::connect(address)).await;
            let connected = connected
                .map_err(|_| anyhow!("no answer within {limit:?}"))
                .and_then(|connected| Ok(connected?))
                .with_context(|| format!("connect to {address}"));
            match connected {
                Ok(stream) => return Ok((stream, address.ip())),
                Err(error) => failed = Some(self.network(error)),
            }
        }
        Err(failed.unwrap_or_else(|| self.network(anyhow!("the name has no address"))))
    }

    /// One address of each family; IPv4 first, since it works without the tunnel that is wanted.
    async fn resolve(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let Server { host, port } = &self.request.server;
        let resolved = timeout(self.request.times.step, lookup_host((host.as_str(), *port))).await;
        let resolved: Vec<SocketAddr> = resolved
            .map_err(|_| anyhow!("no answer within {:?}", self.request.times.step))
            .and_then(|resolved| Ok(resolved?.collect()))
            .with_context(|| format!("resolve {host}"))?;
        let of = |v4: bool| resolved.iter().find(move |address| address.is_ipv4() == v4);
        Ok([of(true), of(false)]
            .into_iter()
            .flatten()
            .copied()
            .collect())
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        connector: TlsConnector,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
        let host = self.request.server.host.trim_end_matches('.').to_owned();
        let tls = |error| Error::Tls {
            server: self.request.server.clone(),
            error,
        };
        let name = ServerName::try_from(host).map_err(|error| tls(error.into()))?;
        let handshake = connector.connect(name, stream);
        match timeout(self.request.times.step, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let about_certificate = error
                    .get_ref()
                    .and_then(|error| error.downcast_ref())
                    .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
                let error = anyhow!(error);
                Err(tls(if about_certificate {
                    error.context(
                        "the server's certificate is not accepted; name its authority by tls_ca, \
                         or take any certificate by tls_verify = false",
                    )
                } else {
                    error
                }))
            }
            Err(_) => Err(tls(anyhow!(
                "no answer within {:?}",
                self.request.times.step
            ))),
        }
    }

    async fn tls(&self) -> anyhow::Result<TlsConnector> {
        let choice = self.request.tls.clone();
        let config = blocking(move || client_config(&choice)).await?;
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn network(&self, error: anyhow::Error) -> Error {
        Error::Network {
            server: self.request.server.clone(),
            error,
        }
    }

    fn dialogue(&self, error: tic::Error) -> Error {
        Error::Dialogue {
            server: self.request.server.clone(),
            error,
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

#[cfg(test)]
#[path = "tic_tests.rs"]
mod tests;
