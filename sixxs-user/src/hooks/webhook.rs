//! Posts an alert to a web server, with one connection for each alert. Of the response only the status is used.

use std::{path::PathBuf, pin::pin, sync::Arc};

use anyhow::{Context as _, ensure};
use http_body_util::Full;
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sixxs_core::config::Webhook;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::broker::tls::{TlsChoice, client_config};

/// Posts an alert.
pub(super) async fn post(webhook: &Webhook, line: &str) -> anyhow::Result<()> {
    let Webhook { host, port, .. } = webhook;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, *port))
        .await
        .with_context(|| format!("connect to {host}, port {port}"))?;
    if !webhook.tls {
        return post_over(stream, webhook, line).await;
    }
    let choice = TlsChoice {
        ca: webhook.ca.as_ref().map(PathBuf::from),
        verify: true,
    };
    let tls = TlsConnector::from(Arc::new(client_config(&choice)?));
    let name = ServerName::try_from(bare.to_owned()).context("its name")?;
    let stream = tls
        .connect(name, stream)
        .await
        .with_context(|| format!("start TLS with {host}"))?;
    post_over(stream, webhook, line).await
}

async fn post_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    webhook: &Webhook,
    line: &str,
) -> anyhow::Result<()> {
    let host = &webhook.host;
    let talk = || format!("talk to {host}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(talk)?;
    let usual = if webhook.tls { 443 } else { 80 };
    let authority = match webhook.port {
        port if port == usual => host.clone(),
        port => format!("{host}:{port}"),
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(webhook.target.expose())
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("sixxs/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(line.to_owned())))
        .context("make the request")?;
    let mut answered = pin!(sender.send_request(request));
    // Drive the connection until the response arrives; both are dropped together.
    let response = tokio::select! {
        biased;
        response = &mut answered => response,
        ended = connection => {
            ended.with_context(talk)?;
            answered.await
        }
    };
    let response = response.with_context(talk)?;
    let status = response.status();
    ensure!(status.is_success(), "{host} answered {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
    use sixxs_core::secret::Secret;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };
    use tokio_rustls::TlsAcceptor;

    fn webhook(port: u16, ca: Option<String>) -> Webhook {
        Webhook {
            tls: ca.is_some(),
            host: "127.0.0.1".to_owned(),
            port,
            target: Secret::from("/tell?token=geheim"),
            ca,
        }
    }

    /// Reads the complete request, and sends the answer.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut some = [0; 1024];
            let read = stream.read(&mut some).await.unwrap();
            assert_ne!(read, 0);
            request.extend_from_slice(&some[..read]);
        }
        // The client may close before it reads the answer.
        let _gone = stream.write_all(answer.as_bytes()).await;
        let _gone = stream.shutdown().await;
        String::from_utf8(request).unwrap()
    }

    async fn server(
        tls: Option<TlsAcceptor>,
        answer: &'static str,
    ) -> (u16, JoinHandle<Option<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match tls {
                None => Some(serve(stream, answer).await),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Some(serve(stream, answer).await),
                    Err(_) => None,
                },
            }
        });
        (port, served)
    }

    const GOOD: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn an_alert_is_posted() {
        let (port, served) = server(None, GOOD).await;
        post(&webhook(port, None), r#"{"kind":"leak"}"#)
            .await
            .unwrap();
        let request = served.await.unwrap().unwrap();
        assert!(
            request.starts_with("POST /tell?token=geheim HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{request}"
        );
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with("\r\n\r\n{\"kind\":\"leak\"}"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn errors_do_not_contain_the_secret() {
        for (answer, expected) in [
            (
                "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
                "answered 503",
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
                "answered 302",
            ),
            ("nonsense\r\n\r\n", "talk to 127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            let (port, served) = server(None, answer).await;
            let error = post(&webhook(port, None), "{}").await.unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(expected), "{answer:?}: {error}");
            assert!(!error.contains("geheim"), "{error}");
            served.await.unwrap();
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let error = post(&webhook(port, None), "{}").await.unwrap_err();
        assert!(
            format!("{error:#}").contains(&format!("port {port}")),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn the_certificate_of_a_server_is_verified() {
        let directory = tempfile::tempdir().unwrap();
        let [(ours, ca), (theirs, _)] = ["ours", "theirs"].map(|name| {
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            let file = directory.path().join(name);
            std::fs::write(&file, cert.pem()).unwrap();
            let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
            let file = file.to_str().unwrap().to_owned();
            (TlsAcceptor::from(Arc::new(config)), file)
        });
        let (port, served) = server(Some(ours), GOOD).await;
        post(&webhook(port, Some(ca.clone())), "{}").await.unwrap();
        assert!(served.await.unwrap().unwrap().starts_with("POST /tell"));

        let (port, served) = server(Some(theirs), GOOD).await;
        let error = post(&webhook(port, Some(ca)), "{}").await.unwrap_err();
        assert!(format!("{error:#}").contains("start TLS"), "{error:#}");
        assert_eq!(served.await.unwrap(), None);
    }
}
