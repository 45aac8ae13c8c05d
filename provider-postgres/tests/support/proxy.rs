//! A way to a server that can be led elsewhere, and cut before or after what is sent has arrived.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It arrives, and so does the answer.
    Open,
    /// The next thing that is sent does not arrive: the connection is cut.
    CutBefore,
    /// The next thing that is sent arrives, and the connection is cut when the answer comes.
    CutAfter,
}

pub struct Proxy {
    pub port: u16,
    target: Arc<Mutex<u16>>,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (way, target) = (watch::Sender::new(Way::Open), Arc::new(Mutex::new(port)));
        let proxy = Self { port: own, target: target.clone(), way: way.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = *target.lock().unwrap();
                tokio::spawn(connect(client, port, way.clone()));
            }
        });
        proxy
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Leads connections that come from now on to another server.
    pub fn lead_to(&self, port: u16) {
        *self.target.lock().unwrap() = port;
    }
}

async fn connect(mut client: TcpStream, port: u16, way: watch::Sender<Way>) {
    let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else { return };
    let (mut from_client, mut from_server) = ([0; 1 << 14], [0; 1 << 14]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(bytes @ 1..) = read else { return };
                // Returning drops both, with whatever is on its way. The way is open again for the next one.
                if *way.borrow() == Way::CutBefore {
                    way.send_replace(Way::Open);
                    return;
                }
                if server.write_all(&from_client[..bytes]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(bytes @ 1..) = read else { return };
                if *way.borrow() == Way::CutAfter {
                    way.send_replace(Way::Open);
                    return;
                }
                if client.write_all(&from_server[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }
}
