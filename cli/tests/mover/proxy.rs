//! A way to a server that can be cut, that holds back what is sent, or that loses the answers to appends.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What every commit of the nodes holds, so that an append is recognised on its way.
pub const MARK: &str = "made-by-a-node";
/// Longest piece that is passed on at once.
const PIECE_BYTES_MAX: usize = 64 << 10;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It arrives, and so does the answer.
    Open,
    /// An append is held back, and arrives when the way is opened, whether or not anybody still waits for it.
    HoldsAppends,
    /// An append arrives; its answer does not, and the connection breaks.
    LosesAnswers,
    /// Every connection is broken, and so is every new one.
    Cut,
}

/// What an append of a node is recognised by: all of these in one piece.
pub type Marks = Vec<String>;

/// A way on a port of its own.
pub struct Proxy {
    /// Where it begins.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: AtomicU16,
    marks: Marks,
    way: watch::Sender<Way>,
    held: AtomicU64,
    released: AtomicU64,
    lost: AtomicU64,
    cut: AtomicU64,
}

impl Proxy {
    /// Leads to a port of this machine.
    pub fn to(port: u16, marks: Marks) -> Self {
        let (held, released, lost, cut) = Default::default();
        let shared = Arc::new(Shared {
            to: AtomicU16::new(port),
            marks,
            way: watch::Sender::new(Way::Open),
            held,
            released,
            lost,
            cut,
        });
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let own = listener.local_addr().unwrap().port();
        let of_connections = Arc::downgrade(&shared);
        RUNTIME.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(shared) = of_connections.upgrade() else { return };
                tokio::spawn(connect(client, shared));
            }
        });
        Self { port: own, shared }
    }

    /// Changes what becomes of what is sent.
    pub fn set(&self, way: Way) {
        self.shared.way.send_replace(way);
    }

    /// Leads connections that come from now on to another port.
    pub fn lead_to(&self, port: u16) {
        self.shared.to.store(port, Ordering::SeqCst);
    }

    /// Appends that were held back so far.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Those of them that have arrived since.
    pub fn released(&self) -> u64 {
        self.shared.released.load(Ordering::SeqCst)
    }

    /// Appends whose answers were lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Connections that were broken so far.
    pub fn cut(&self) -> u64 {
        self.shared.cut.load(Ordering::SeqCst)
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.way.subscribe();
    if *cut.borrow() == Way::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to.load(Ordering::SeqCst))).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let appends = AtomicBool::new(false);
    let requests = async {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            let sent = &piece[..count];
            let has = |mark: &String| sent.windows(mark.len()).any(|part| part == mark.as_bytes());
            let is_append = shared.marks.iter().all(has);
            appends.store(is_append, Ordering::SeqCst);
            let holds = is_append && *shared.way.borrow() == Way::HoldsAppends;
            if holds {
                shared.held.fetch_add(1, Ordering::SeqCst);
                let mut way = shared.way.subscribe();
                let _open = way.wait_for(|way| *way != Way::HoldsAppends).await.is_ok();
            }
            if to_server.write_all(sent).await.is_err() {
                return;
            }
            if holds {
                shared.released.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let answers = async {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        while let Ok(count @ 1..) = from_server.read(&mut piece).await {
            if *shared.way.borrow() == Way::LosesAnswers && appends.load(Ordering::SeqCst) {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if to_client.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    };
    // What ends first takes the other with it, so that both connections break.
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {
            shared.cut.fetch_add(1, Ordering::SeqCst);
        }
    }
}
