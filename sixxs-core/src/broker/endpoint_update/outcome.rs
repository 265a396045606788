//! What became of a request: the answers of the protocol and those of Hurricane Electric, each with a sentence.

use std::{net::Ipv4Addr, time::Duration};

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has the address now.
    Accepted {
        /// The address in the answer, if it has one.
        address: Option<Ipv4Addr>,
    },
    /// The server does not have it, or nobody knows.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `badauth`, or HTTP 401.
    BadAuth,
    /// `!donator`.
    NotPaid,
    /// `notfqdn`.
    NotFqdn,
    /// `nohost`.
    NoHost,
    /// `!yours`.
    NotYours,
    /// `numhost`.
    NumHost,
    /// `abuse`.
    Abuse,
    /// `badagent`.
    BadAgent,
    /// HTTP 403.
    Forbidden,
    /// HTTP 404 or 410.
    NotFound,
    /// Another HTTP status of 400 to 499.
    Rejected,
    /// The server has pinged the address, and got no answer.
    NotPingable,
    /// The server does not accept the address.
    AddressBlocked,
    /// The server confirms another address than the one that was sent.
    OtherAddress,
    /// `911`.
    ServerTrouble,
    /// `dnserr`.
    DnsError,
    /// HTTP 429.
    Busy,
    /// HTTP 500 to 599.
    ServerError,
    /// HTTP 300 to 399.
    Redirected,
    /// An empty answer.
    Empty,
    /// An answer that is too long.
    TooLong,
    /// Any other answer.
    NotUnderstood,
    /// The request was sent, and the connection ended without an answer, or the time limit passed.
    NoAnswer,
    /// The request was not sent: there was no connection, or no TLS.
    Unreachable,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Only a person can change it: nothing is sent until somebody has.
    Fatal,
    /// It is about the address: another address may work at once.
    Address,
    /// The server has a problem, or wants fewer requests.
    Server,
    /// It is not known what the server made of the request.
    Unclear,
    /// The connection failed: another path may work at once.
    Connection,
}

/// The pause after the answer of a server with a problem: the protocol demands half an hour.
const SERVER_PAUSE: Duration = Duration::from_secs(30 * 60);

const CONNECTION_PAUSE: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

impl Failure {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::BadAuth,
        Self::NotPaid,
        Self::NotFqdn,
        Self::NoHost,
        Self::NotYours,
        Self::NumHost,
        Self::Abuse,
        Self::BadAgent,
        Self::Forbidden,
        Self::NotFound,
        Self::Rejected,
        Self::NotPingable,
        Self::AddressBlocked,
        Self::OtherAddress,
        Self::ServerTrouble,
        Self::DnsError,
        Self::Busy,
        Self::ServerError,
        Self::Redirected,
        Self::Empty,
        Self::TooLong,
        Self::NotUnderstood,
        Self::NoAnswer,
        Self::Unreachable,
    ];

    /// Its name, which is the protocol's word where there is one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadAuth => "badauth",
            Self::NotPaid => "!donator",
            Self::NotFqdn => "notfqdn",
            Self::NoHost => "nohost",
            Self::NotYours => "!yours",
            Self::NumHost => "numhost",
            Self::Abuse => "abuse",
            Self::BadAgent => "badagent",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Rejected => "rejected",
            Self::NotPingable => "not_pingable",
            Self::AddressBlocked => "address_blocked",
            Self::OtherAddress => "other_address",
            Self::ServerTrouble => "911",
            Self::DnsError => "dnserr",
            Self::Busy => "busy",
            Self::ServerError => "server_error",
            Self::Redirected => "redirected",
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NotUnderstood => "not_understood",
            Self::NoAnswer => "no_answer",
            Self::Unreachable => "unreachable",
        }
    }

    /// A sentence for the user, with the cure where there is one.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::BadAuth => {
                "the server refuses the user name or the password (badauth); at Hurricane Electric the password is the \
                 tunnel's Update Key, on its page under Advanced"
            }
            Self::NotPaid => "the server offers this only to accounts that pay for it (!donator)",
            Self::NotFqdn => "the server does not accept this hostname (notfqdn); correct hostname",
            Self::NoHost => {
                "the account has no such hostname (nohost); at Hurricane Electric it is the number of the tunnel"
            }
            Self::NotYours => {
                "the hostname belongs to another account (!yours); correct user or hostname"
            }
            Self::NumHost => "the server finds too many host names (numhost); name a single one",
            Self::Abuse => {
                "the server has blocked the hostname for too many updates (abuse); ask the broker to unblock it"
            }
            Self::BadAgent => "the server does not accept this program (badagent); ask the broker",
            Self::Forbidden => {
                "the server forbids the request (HTTP 403); correct url, or ask the broker"
            }
            Self::NotFound => "the server has nothing at this URL (HTTP 404); correct url",
            Self::Rejected => "the server rejects the request (HTTP 4xx); correct url and hostname",
            Self::NotPingable => {
                "the server got no answer when it pinged this address; let ICMP echo requests to this host pass, at a \
                 NAT too"
            }
            Self::AddressBlocked => {
                "the server does not accept this address, which is a private or a blocked one; ask the broker"
            }
            Self::OtherAddress => {
                "the server confirms another address than the one that was sent; correct hostname, or ask the broker"
            }
            Self::ServerTrouble => "the server has a problem, or maintenance (911)",
            Self::DnsError => "the server has a problem with its own name service (dnserr)",
            Self::Busy => "the server asks for fewer requests (HTTP 429)",
            Self::ServerError => "the server has a problem (HTTP 5xx)",
            Self::Redirected => {
                "the server refers to another URL (HTTP 3xx), which is not followed; correct url"
            }
            Self::Empty => "the answer of the server is empty",
            Self::TooLong => "the answer of the server is too long for this protocol; correct url",
            Self::NotUnderstood => {
                "the answer of the server is not a dyndns2 answer; correct url, or ask the broker"
            }
            Self::NoAnswer => "the server does not answer the request",
            Self::Unreachable => "the server cannot be reached",
        }
    }

    /// The failure with this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.name() == name)
    }

    const fn class(self) -> Class {
        match self {
            Self::BadAuth
            | Self::NotPaid
            | Self::NotFqdn
            | Self::NoHost
            | Self::NotYours
            | Self::NumHost
            | Self::Abuse
            | Self::BadAgent
            | Self::Forbidden
            | Self::NotFound
            | Self::Rejected => Class::Fatal,
            Self::NotPingable | Self::AddressBlocked | Self::OtherAddress => Class::Address,
            Self::ServerTrouble | Self::DnsError | Self::Busy | Self::ServerError => Class::Server,
            Self::Redirected | Self::Empty | Self::TooLong | Self::NotUnderstood => Class::Unclear,
            Self::NoAnswer | Self::Unreachable => Class::Connection,
        }
    }

    /// Whether nothing is sent any more until a person has changed something.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        self.class() == Class::Fatal
    }

    /// Whether another address of this host need not wait.
    pub(super) fn is_of_path(self) -> bool {
        matches!(self.class(), Class::Address | Class::Connection)
    }

    /// Whether the server may have taken the address, or has another one than the last that it confirmed.
    pub(super) const fn leaves_doubt(self) -> bool {
        matches!(
            self,
            Self::OtherAddress
                | Self::ServerError
                | Self::Empty
                | Self::TooLong
                | Self::NotUnderstood
                | Self::NoAnswer
        )
    }

    /// The time until the next request after this number of failures in a row.
    pub(super) fn pause(self, failures: u32) -> Duration {
        let (first, longest) = match self.class() {
            Class::Fatal => return Duration::MAX,
            Class::Address | Class::Unclear => (SERVER_PAUSE, HOUR.saturating_mul(24)),
            Class::Server => (SERVER_PAUSE, HOUR.saturating_mul(6)),
            Class::Connection => (CONNECTION_PAUSE, HOUR),
        };
        let doublings = failures.saturating_sub(1).min(16);
        first.saturating_mul(1 << doublings).min(longest)
    }
}

impl Outcome {
    /// Reads an answer. The protocol's word decides, whatever the HTTP status: a `911` often comes with 500, a
    /// `badauth` with 401. `is_too_long`: the body is longer than `body`.
    #[must_use]
    pub fn read(status: u16, body: &[u8], is_too_long: bool) -> Self {
        if is_too_long {
            return Self::Failed(Failure::TooLong);
        }
        let text = String::from_utf8_lossy(body);
        let line = text.trim().lines().next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default().to_ascii_lowercase();
        match first.as_str() {
            "good" | "nochg" => match words.next().map(str::parse) {
                None => Self::Accepted { address: None },
                Some(Ok(address)) => Self::Accepted {
                    address: Some(address),
                },
                Some(Err(_)) => Self::Failed(Failure::NotUnderstood),
            },
            "-error:" | "-error" => of_hurricane_electric(line),
            word => Self::Failed(of_word(word).unwrap_or_else(|| of_status(status, line))),
        }
    }
}

/// The failure for a word of the protocol.
fn of_word(word: &str) -> Option<Failure> {
    match word {
        "badauth" => Some(Failure::BadAuth),
        "!donator" => Some(Failure::NotPaid),
        "notfqdn" => Some(Failure::NotFqdn),
        "nohost" => Some(Failure::NoHost),
        "!yours" => Some(Failure::NotYours),
        "numhost" => Some(Failure::NumHost),
        "abuse" => Some(Failure::Abuse),
        "badagent" => Some(Failure::BadAgent),
        "dnserr" | "dnserror" => Some(Failure::DnsError),
        "911" => Some(Failure::ServerTrouble),
        _ => None,
    }
}

/// The failure for an HTTP status, when the text has no word of the protocol.
const fn of_status(status: u16, line: &str) -> Failure {
    match status {
        300..400 => Failure::Redirected,
        401 => Failure::BadAuth,
        403 => Failure::Forbidden,
        404 | 410 => Failure::NotFound,
        408 | 409 | 421 | 423 | 425 => Failure::ServerError,
        429 => Failure::Busy,
        400..500 => Failure::Rejected,
        500..600 => Failure::ServerError,
        _ if line.is_empty() => Failure::Empty,
        _ => Failure::NotUnderstood,
    }
}

/// The outcome for an error text of Hurricane Electric, which has no words.
fn of_hurricane_electric(line: &str) -> Outcome {
    let line = line.to_ascii_lowercase();
    let failure = if line.contains("pingable") {
        Failure::NotPingable
    } else if line.contains("already associated") {
        return Outcome::Accepted { address: None };
    } else if line.contains("ip is blocked") || line.contains("not in a valid format") {
        Failure::AddressBlocked
    } else if line.contains("password") || line.contains("api key") {
        Failure::BadAuth
    } else if line.contains("tunnel not found") {
        Failure::NoHost
    } else {
        Failure::NotUnderstood
    };
    Outcome::Failed(failure)
}
