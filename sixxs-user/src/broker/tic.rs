//! Queries a TIC server: the IO around [`sixxs_core::broker::tic`].
//!
//! Every connect first takes a slot of the connect limit, under the server's name and under its address.
//! Every step has a time limit, and the core limits the size of the server's data. TLS verifies the server
//! with the system's certificate authorities, unless configured otherwise.

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

use super::{blocking, connects::Connects};
pub use crate::web::tls::TlsChoice;
use crate::{host::clock::after, web::tls::client_config};

/// A query to a TIC server.
#[derive(Clone, Debug)]
pub struct Request {
    /// The server.
    pub server: Server,
    /// How to verify the server.
    pub tls: TlsChoice,
    /// The credentials.
    pub login: Login,
    /// The data to get.
    pub goal: Goal,
    /// The time limits.
    pub times: Times,
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For a step: resolving the name, the TLS handshake, a response.
    pub step: Duration,
    /// For the whole query.
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

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connect limit does not allow a connect now; nothing was sent.
    #[error("{server}: {wait}")]
    Wait {
        /// The server.
        server: Server,
        /// The remaining time, and the reason.
        wait: Wait,
    },
    /// The server refused the login because of too many connects, and must not be contacted for a while.
    #[error("{server}: {error}; {wait}")]
    TooOften {
        /// The server.
        server: Server,
        /// With the server's message.
        error: tic::Error,
        /// The remaining time.
        wait: Wait,
    },
    /// The server responded, but the response cannot be used.
    #[error("{server}: {error}")]
    Dialogue {
        /// The server.
        server: Server,
        /// With the server's message.
        error: tic::Error,
    },
    /// The server cannot be reached, or does not respond.
    #[error("{server}: {error:#}")]
    Network {
        /// The server.
        server: Server,
        /// The attempt and its error.
        error: anyhow::Error,
    },
    /// TLS failed.
    #[error("{server}: start TLS: {error:#}")]
    Tls {
        /// The server.
        server: Server,
        /// The error.
        error: anyhow::Error,
    },
    /// An error on this host; nothing was sent.
    #[error("{0:#}")]
    Local(anyhow::Error),
}

/// When to query again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this time, not earlier.
    After(Wait),
    /// Later, at growing intervals.
    Later,
    /// After a change by the user: the same query gets the same response.
    WhenChanged,
}

impl Error {
    /// When to query again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Wait { wait, .. } | Self::TooOften { wait, .. } => Retry::After(*wait),
            Self::Dialogue { error, .. } => match error.class() {
                Class::Refused | Class::Tls => Retry::WhenChanged,
                // The clock may be corrected at any time.
                Class::Clock | Class::Unavailable | Class::Garbage | Class::TooOften => {
                    Retry::Later
                }
            },
            Self::Tls { .. } | Self::Network { .. } | Self::Local(_) => Retry::Later,
        }
    }
}

/// How this program identifies itself and the host.
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

/// Queries the server with one connect, or with two if the server has an IPv4 and an IPv6 address and the first
/// cannot be reached.
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

/// Why a part of the dialogue failed.
enum Broken {
    Network(anyhow::Error),
    Dialogue(tic::Error),
}

impl Fetch<'_> {
    async fn run(&self) -> Result<Outcome, Error> {
        let Request { login, goal, .. } = &self.request;
        let client =
            Client::new(login.clone(), goal.clone()).map_err(|error| self.dialogue(error))?;
        // Find errors on this host before a slot is spent.
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
                let wait = self.connects.lock_out_each(&names).await;
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

    /// Runs the dialogue until TLS begins or the client has its result.
    async fn part<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        client: &mut Client,
        mut actions: Vec<Action>,
    ) -> Result<End, Broken> {
        let mut buffer = Zeroizing::new([0; 4096]);
        loop {
            // One deadline for the whole step: a server that sends single bytes does not extend it.
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
                        // The client has its result, so an error while closing does not matter.
                        let _closed = timeout(Duration::from_secs(1), stream.shutdown()).await;
                        return Ok(End::Done(outcome));
                    }
                }
            }
            while actions.is_empty() {
                let read = timeout_at(until, stream.read(&mut buffer[..])).await;
                let read = match read.map_err(|_| self.silent(client))? {
                    // TLS was closed without close_notify, which is no problem here.
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
                // An earlier failure gives more information.
                Ok(Err(wait)) => {
                    return Err(failed.unwrap_or_else(|| Error::Wait {
                        server: self.request.server.clone(),
                        wait,
                    }));
                }
                Err(error) => return Err(Error::Local(error)),
            };
            let Some(left) = slot.remaining().map_err(Error::Local)? else {
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

    /// One address of each family. IPv4 first, since it works without the tunnel.
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
