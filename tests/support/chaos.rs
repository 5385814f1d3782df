//! Chaos proxy: a TCP connection's fate on the way to a target, as a plan says.
//!
//! It listens on a free port of the loopback interface, on a thread of its own, and knows nothing of what it passes on.
//! [`ChaosProxy::set`] changes the plan of all connections, those open too, at any time; [`ChaosProxy::plan_next`] sets
//! plans aside for the next connections. What passed each connection is counted, so that a conversation can be cut
//! after each of its bytes in turn. Dropping the proxy closes every connection.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Pieces that a limited rate is cut into, a second.
const PIECES_PER_SECOND: u64 = 50;

/// What happens to a connection. The default passes everything on at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Nobody listens: who connects is refused. Connections that are open stay.
    pub(crate) is_refused: bool,
    /// Nothing is passed on or read in either direction, ends included, and both sockets stay, until another plan.
    pub(crate) is_half_open: bool,
    /// How long each piece is held, each direction.
    pub(crate) delay: Duration,
    /// How many bytes a second pass, each direction.
    pub(crate) bytes_per_second: Option<u64>,
    /// Where the connection breaks off.
    pub(crate) cut: Option<Cut>,
}

/// A connection breaks off when so many bytes have passed in one direction: at once where they have passed already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) direction: Direction,
    pub(crate) after_bytes: u64,
    pub(crate) end: End,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    ToTarget,
    ToClient,
}

/// How a connection breaks off, for both its sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Closed in order (FIN).
    Close,
    /// Reset (RST), with whatever was not yet sent thrown away.
    Reset,
    /// Silent for ever: both sockets stay.
    Silence,
}

impl Plan {
    /// Refuses who connects.
    pub(crate) fn refused() -> Self {
        Self { is_refused: true, ..Self::default() }
    }

    /// Passes nothing on and closes nothing.
    pub(crate) fn half_open() -> Self {
        Self { is_half_open: true, ..Self::default() }
    }

    /// Breaks off by `end` when `after_bytes` have passed in `direction`.
    pub(crate) fn cut(direction: Direction, after_bytes: u64, end: End) -> Self {
        Self { cut: Some(Cut { direction, after_bytes, end }), ..Self::default() }
    }
}

/// How many bytes passed a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Passed {
    pub(crate) to_target: u64,
    pub(crate) to_client: u64,
}

impl Passed {
    fn of(&mut self, direction: Direction) -> &mut u64 {
        match direction {
            Direction::ToTarget => &mut self.to_target,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// The proxy. Dropping it closes its connections and frees its port.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    plan: watch::Sender<Plan>,
    /// Each change breaks off the connections that were open before it.
    broken: watch::Sender<Option<End>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    next: Mutex<VecDeque<Plan>>,
    /// By connection, in the order they came.
    passed: Mutex<Vec<Passed>>,
}

impl ChaosProxy {
    /// One in front of `target`.
    pub(crate) fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (plan, plans) = watch::channel(Plan::default());
        let (broken, breaks) = watch::channel(None);
        let shared = Arc::<Shared>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("chaos".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(accept(listener, target, plans, breaks, theirs)) {
                eprintln!("the chaos proxy at {address} has ended: {error}");
            }
        })?;
        Ok(Self { address, plan, broken, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The plan of all connections from now on, open ones too, but for those that came by a plan of their own.
    pub(crate) fn set(&self, plan: Plan) {
        self.plan.send_replace(plan);
    }

    /// Plans of the next connections, one each: `is_refused` means nothing there.
    pub(crate) fn plan_next(&self, plans: impl IntoIterator<Item = Plan>) {
        self.shared.next.lock().unwrap().extend(plans);
    }

    /// Breaks off every open connection, whatever its plan.
    pub(crate) fn break_off(&self, end: End) {
        self.broken.send_replace(Some(end));
    }

    /// What has passed each connection, in the order they came.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        self.shared.passed.lock().unwrap().clone()
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        // Without a sender the accepting task ends, and its runtime with all it holds.
        let (gone, _) = watch::channel(Plan::default());
        drop(std::mem::replace(&mut self.plan, gone));
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug of this file, and has then said so itself.
            drop(thread.join());
        }
    }
}

/// Accepts until the proxy is dropped.
async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    mut plans: watch::Receiver<Plan>,
    breaks: watch::Receiver<Option<End>>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut door = Door::Open(TcpListener::from_std(listener)?);
    let mut links = JoinSet::new();
    loop {
        let is_refused = plans.borrow_and_update().is_refused;
        door = match door {
            Door::Open(listener) if is_refused => {
                drop(listener);
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                Door::Shut(socket)
            }
            Door::Shut(socket) if !is_refused => Door::Open(socket.listen(1024)?),
            door @ (Door::Open(_) | Door::Shut(_)) => door,
        };
        let client = tokio::select! {
            changed = plans.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            client = door.next_client() => client?,
        };
        let number = {
            let mut passed = shared.passed.lock().unwrap();
            passed.push(Passed::default());
            passed.len() - 1
        };
        let own = shared.next.lock().unwrap().pop_front();
        let plan = own.map_or_else(|| plans.clone(), |plan| watch::channel(plan).1);
        let link = Link { number, plan, shared: Arc::clone(&shared) };
        // Whoever it talks to may go at any time: that is an error of nobody.
        links.spawn(link.run(client, target, breaks.clone()));
        while links.try_join_next().is_some() {}
    }
}

/// Where clients come in.
enum Door {
    Open(TcpListener),
    /// Bound, so that nobody else gets the port, and not listening.
    Shut(TcpSocket),
}

impl Door {
    async fn next_client(&self) -> io::Result<TcpStream> {
        match self {
            Self::Open(listener) => Ok(listener.accept().await?.0),
            Self::Shut(_) => std::future::pending().await,
        }
    }
}

/// One connection and its way to the target.
#[derive(Clone)]
struct Link {
    number: usize,
    /// Without a sender it never changes again.
    plan: watch::Receiver<Plan>,
    shared: Arc<Shared>,
}

impl Link {
    async fn run(self, mut client: TcpStream, target: SocketAddr, mut breaks: watch::Receiver<Option<End>>) {
        breaks.mark_unchanged();
        let Ok(mut server) = TcpStream::connect(target).await else {
            // The client sees what a target that is away looks like behind a proxy.
            drop(client.set_zero_linger());
            return;
        };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let mut there = self.clone();
            let mut back = self;
            let both = async {
                tokio::try_join!(
                    there.pass(from_client, to_server, Direction::ToTarget),
                    back.pass(from_server, to_client, Direction::ToClient),
                )
            };
            tokio::select! {
                biased;
                end = broken_off(&mut breaks) => end,
                passed = both => passed.err().unwrap_or(End::Close),
            }
        };
        match end {
            End::Close => drop((client.shutdown().await, server.shutdown().await)),
            // A socket that refuses closes in order: the other side notices either way.
            End::Reset => drop((client.set_zero_linger(), server.set_zero_linger())),
            End::Silence => while broken_off(&mut breaks).await == End::Silence {},
        }
    }

    /// Passes bytes on until their end; `Err` is how the whole connection is to end instead.
    async fn pass(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction) -> Result<(), End> {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let room = self.room(direction).await?;
            let room = usize::try_from(room).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let read = tokio::select! {
                read = from.read(&mut buffer[..room]) => read,
                () = changed(&mut self.plan) => continue,
            };
            let delay = self.plan.borrow().delay;
            tokio::time::sleep(delay).await;
            let Ok(length @ 1..) = read else {
                // The end passes too, unless the plan has changed its mind while it was held.
                self.room(direction).await?;
                let is_reset = read.is_err();
                drop(to.shutdown().await);
                return if is_reset { Err(End::Reset) } else { Ok(()) };
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                // What was read is held where nothing passes by now, and cut where less passes by now.
                let room = self.room(direction).await?;
                let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                if to.write_all(now).await.is_err() {
                    return Err(End::Reset);
                }
                *self.shared.passed.lock().unwrap()[self.number].of(direction) += now.len() as u64;
                rest = later;
                let rate = self.plan.borrow().bytes_per_second;
                if let Some(rate) = rate {
                    let nanoseconds = now.len() as u64 * 1_000_000_000 / rate.max(1);
                    tokio::time::sleep(Duration::from_nanos(nanoseconds)).await;
                }
            }
        }
    }

    /// How many bytes may pass now, at least one; waits while none may, and says when the connection is to end.
    async fn room(&mut self, direction: Direction) -> Result<u64, End> {
        loop {
            let plan = self.plan.borrow_and_update().clone();
            if plan.is_half_open {
                changed(&mut self.plan).await;
                continue;
            }
            let rate = plan.bytes_per_second.map_or(u64::MAX, |rate| (rate / PIECES_PER_SECOND).max(1));
            let Some(cut) = plan.cut else { return Ok(rate) };
            let passed = *self.shared.passed.lock().unwrap()[self.number].of(cut.direction);
            if passed >= cut.after_bytes {
                return Err(cut.end);
            }
            return Ok(if cut.direction == direction { rate.min(cut.after_bytes - passed) } else { rate });
        }
    }
}

/// Waits for another plan: for ever where there will be none.
async fn changed(plan: &mut watch::Receiver<Plan>) {
    if plan.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until connections are broken off; how.
async fn broken_off(breaks: &mut watch::Receiver<Option<End>>) -> End {
    loop {
        if breaks.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(end) = *breaks.borrow() {
            return end;
        }
    }
}
