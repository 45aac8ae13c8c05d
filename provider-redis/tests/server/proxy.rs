//! A proxy between a store and its server, that breaks connections where a test wants it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest piece that is passed on at once.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// A proxy on a port of its own; gone when dropped.
pub struct Proxy {
    pub port: u16,
    cuts: Arc<Cuts>,
    listening: JoinHandle<()>,
}

/// What breaks the next connection that has it to do.
#[derive(Default)]
struct Cuts {
    request: AtomicBool,
    answer: AtomicBool,
}

impl Proxy {
    /// Passes everything on to a port.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(Cuts::default());
        let shared = cuts.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let cuts = shared.clone();
                tokio::spawn(async move {
                    // What ends first takes the other with it, so that both connections break.
                    tokio::select! {
                        () = pass(from_client, to_server, &cuts.request) => {}
                        () = pass(from_server, to_client, &cuts.answer) => {}
                    }
                });
            }
        });
        Self { port, cuts, listening }
    }

    /// Breaks the connection at the next request, which the server does not see.
    pub fn cut_request(&self) {
        self.cuts.request.store(true, Ordering::SeqCst);
    }

    /// Breaks the connection at the next answer: the server has done what it was asked.
    pub fn cut_answer(&self) {
        self.cuts.answer.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: &AtomicBool) {
    let mut piece = vec![0; PIECE_BYTES_MAX];
    loop {
        match from.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) if cut.swap(false, Ordering::SeqCst) => return,
            Ok(count) => {
                if to.write_all(&piece[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
