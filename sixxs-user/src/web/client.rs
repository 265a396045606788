//! One HTTP request over its own connection.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use anyhow::Context as _;
use base64ct::{Base64, Encoding as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sixxs_core::{config::Url, secret::Secret};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::tls::{TlsChoice, client_config};

/// How a server is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// By any of its addresses.
    Any,
    /// By this address, from an address of this host.
    From {
        /// The local address.
        source: Ipv4Addr,
        /// The server.
        server: SocketAddrV4,
    },
}

/// A request.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// GET, with the credentials of [`basic_authorization`].
    Get(HeaderValue),
    /// POST of a JSON text.
    PostJson(&'a str),
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The beginning of the body, up to the limit of the request.
    pub(crate) body: Vec<u8>,
    /// Whether the body is longer.
    pub(crate) is_too_long: bool,
}

/// A stream to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The header with a user name and a password (RFC 7617). It is never printed.
pub(crate) fn basic_authorization(user: &str, password: &Secret) -> anyhow::Result<HeaderValue> {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    let encoded = Zeroizing::new(Base64::encode_string(pair.as_bytes()));
    let text = Zeroizing::new(format!("Basic {}", encoded.as_str()));
    let mut value = HeaderValue::from_str(&text).context("make the header with the password")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Connects to a server, with TLS if the URL asks for it. `ca`: a file with the trusted authorities.
pub(crate) async fn open(
    url: &Url,
    ca: Option<&str>,
    route: Route,
) -> anyhow::Result<Box<dyn Stream>> {
    let Url { host, port, .. } = url;
    let stream = match route {
        Route::Any => TcpStream::connect((url.bare_host(), *port)).await,
        Route::From { source, server } => connect_from(source, server).await,
    };
    let stream = stream.with_context(|| format!("connect to {host}, port {port}"))?;
    if !url.tls {
        return Ok(Box::new(stream));
    }
    let choice = TlsChoice {
        ca: ca.map(PathBuf::from),
        verify: true,
    };
    let tls = TlsConnector::from(Arc::new(client_config(&choice)?));
    let name = ServerName::try_from(url.bare_host().to_owned()).context("its name")?;
    let stream = tls
        .connect(name, stream)
        .await
        .with_context(|| format!("start TLS with {host}"))?;
    Ok(Box::new(stream))
}

async fn connect_from(source: Ipv4Addr, server: SocketAddrV4) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(source, 0).into())?;
    socket.connect(server.into()).await
}

/// Sends a request and reads the response, with at most `max_bytes` of its body. `target` is used instead of the
/// URL's path and query.
pub(crate) async fn exchange(
    stream: Box<dyn Stream>,
    url: &Url,
    target: &Secret,
    message: Message<'_>,
    max_bytes: usize,
) -> anyhow::Result<Answer> {
    let talk = || format!("talk to {}", url.host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(talk)?;
    let request = Request::builder()
        .uri(target.expose())
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("sixxs/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    let request = with_message(request, message).context("make the request")?;
    let mut answered = pin!(async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let (body, is_too_long) = read_body(response.into_body(), max_bytes).await?;
        Ok::<_, hyper::Error>(Answer {
            status,
            body,
            is_too_long,
        })
    });
    // Drive the connection until the response is read; both are dropped together.
    let answer = tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = connection => {
            ended.with_context(talk)?;
            answered.await
        }
    };
    answer.with_context(talk)
}

fn with_message(
    request: Builder,
    message: Message<'_>,
) -> hyper::http::Result<Request<Full<Bytes>>> {
    match message {
        Message::Get(authorization) => request
            .method(Method::GET)
            .header(AUTHORIZATION, authorization)
            .body(Full::default()),
        Message::PostJson(text) => request
            .method(Method::POST)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text.to_owned()))),
    }
}

/// The beginning of a body, and whether there is more.
async fn read_body(mut body: Incoming, max_bytes: usize) -> hyper::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    if max_bytes == 0 {
        return Ok((bytes, false));
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let room = max_bytes - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// The request for an answer, and what the client makes of it.
    async fn get(answer: Vec<u8>, max_bytes: usize) -> (String, anyhow::Result<Answer>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut some = [0; 1024];
                let read = stream.read(&mut some).await.unwrap();
                assert_ne!(read, 0);
                request.extend_from_slice(&some[..read]);
            }
            // The client may close before it reads the answer.
            let _gone = stream.write_all(&answer).await;
            String::from_utf8(request).unwrap()
        });
        let url = Url::parse(&format!("http://{address}/nic/update")).unwrap();
        let std::net::SocketAddr::V4(server) = address else {
            panic!("{address}");
        };
        let source = Ipv4Addr::LOCALHOST;
        let stream = open(&url, None, Route::From { source, server })
            .await
            .unwrap();
        let authorization = basic_authorization("me", &Secret::from("geheim")).unwrap();
        assert!(!format!("{authorization:?}").contains("Basic"));
        let target = Secret::from("/nic/update?hostname=7");
        let got = exchange(
            stream,
            &url,
            &target,
            Message::Get(authorization),
            max_bytes,
        )
        .await;
        (served.await.unwrap(), got)
    }

    #[tokio::test]
    async fn a_response_is_read_up_to_a_limit() {
        let answer = |body: &str| {
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        };
        let (request, got) = get(answer("good 192.0.2.1\n"), 100).await;
        assert!(
            request.starts_with("GET /nic/update?hostname=7 HTTP/1.1\r\n"),
            "{request}"
        );
        // RFC 7617 §2: "me:geheim" in base64.
        assert!(
            request.contains("authorization: Basic bWU6Z2VoZWlt\r\n"),
            "{request}"
        );
        let got = got.unwrap();
        assert_eq!(
            (got.status, got.body.as_slice()),
            (200, &b"good 192.0.2.1\n"[..])
        );
        assert!(!got.is_too_long);
        let (_, got) = get(answer(&"x".repeat(100_000)), 100).await;
        let got = got.unwrap();
        assert_eq!((got.body.len(), got.is_too_long), (100, true));
        let (_, got) = get(answer(&"x".repeat(100)), 100).await;
        assert!(!got.unwrap().is_too_long);
    }

    #[tokio::test]
    async fn a_response_that_is_none_is_an_error() {
        for answer in [
            "",
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ngood",
        ] {
            let (_, got) = get(answer.as_bytes().to_vec(), 100).await;
            let error = format!("{:#}", got.unwrap_err());
            assert!(error.starts_with("talk to 127.0.0.1"), "{error}");
            assert!(
                !error.contains("geheim") && !error.contains("bWU6"),
                "{error}"
            );
        }
    }
}
