//! Connections under TLS: only to a server whom a trusted authority vouches for. Certificates are made by the program `openssl`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod server;

use evstore_api::{CommitId, ErrorKind};
use server::{Server, append, open, settings};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Makes an authority, and a certificate of it for `localhost`.
fn certificates(folder: &Path) {
    let run = |arguments: &str| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let made = made.expect("the program openssl is installed");
        assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    };
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    run(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem");
}

/// Ends TLS in front of a port; gives its own.
async fn tls_before(to: u16, folder: &Path) -> u16 {
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_vouched_for_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let server = Server::start(&[]).await;
    let port = tls_before(server.port, folder.path()).await;
    let authority = folder.path().join("ca.pem").display().to_string();

    let store = open(&format!("rediss://localhost:{port}"), &[("ca_file", authority.as_str())]).await;
    append(&store, "a-1", CommitId::generate()).await.unwrap();

    let opener = evstore_redis::provider().opener;
    let refused = async |url: &str, more: &[(&str, &str)]| opener.open(&settings(url, more)).await.unwrap_err();
    // The system does not know this authority.
    let error = refused(&format!("rediss://user:word@localhost:{port}"), &[]).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!format!("{error:?} {error}").contains("word"));
    // The certificate is another host's.
    let error = refused(&format!("rediss://127.0.0.1:{port}"), &[("ca_file", authority.as_str())]).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = refused(&format!("rediss://localhost:{port}/#insecure"), &[("insecure", "true")]).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = refused(&format!("rediss://localhost:{port}"), &[("ca_file", "/nowhere")]).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
