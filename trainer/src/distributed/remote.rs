//! Workers on other machines: Burn's remote engine over Iroh's QUIC.
//!
//! A worker's key pair follows from the token, so that whoever has the token knows the
//! public key to expect, and the handshake of TLS 1.3 proves to it that the worker has the
//! token too. Inside the encrypted connection the client shows a digest of the token. No
//! relay, discovery, port mapping or name service is asked: a client dials an address.

use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use burn::remote::{ConnectError as BurnError, RemoteHost};
use burn::server::{AuthorizationRequest, BURN_REMOTE_ALPN, RemoteServer};
use burn::tensor::Device;
use iroh::endpoint::{
    BindOpts, ConnectError, ConnectingError, Connection, ConnectionError, IdleTimeout,
    PortmapperConfig, QuicTransportConfig, presets,
};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{DeviceError, DeviceName, Token, VERSION};

/// UDP port of a worker that is given none.
pub const DEFAULT_PORT: u16 = 7411;

/// The protocol by which a client asks a worker for its version: the worker closes the
/// connection and gives the version as the reason.
const VERSION_PROTOCOL: &[u8] = b"espalier/version";

/// After how long without a word a worker gives a client up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(15);

/// How long closing a connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// A fresh token from the system's randomness.
pub fn random_token() -> Token {
    Token::from_bits(SecretKey::generate().to_bytes())
}

/// This machine's cores, lent to those who have the token, until it is dropped.
pub struct Server {
    endpoint: Endpoint,
    router: Option<Router>,
    address: SocketAddr,
    sessions: Arc<Sessions>,
}

/// What a worker has done.
#[derive(Default)]
struct Sessions {
    opened: AtomicUsize,
    refused: AtomicUsize,
}

impl Server {
    /// Serves on a UDP address; port 0 is any free one. `version` is [`VERSION`] but in
    /// tests.
    pub fn start(listen: SocketAddr, token: &Token, version: &str) -> Result<Self, DeviceError> {
        let runtime = runtime()?;
        let cannot = |reason: String| DeviceError::Listen {
            address: listen,
            reason,
        };
        let sessions = Arc::new(Sessions::default());
        let endpoint = runtime
            .block_on(bind(&[listen], Some(token), CLIENT_PATIENCE))
            .map_err(cannot)?;
        let authorizer = authorizer(token, version, Arc::clone(&sessions));
        let burn = RemoteServer::new([Device::flex()])
            .with_authorizer(authorizer)
            .into_protocol(&endpoint)
            .map_err(|error| cannot(error.to_string()))?;
        let router = {
            let _inside = runtime.enter();
            Router::builder(endpoint.clone())
                .accept(BURN_REMOTE_ALPN, burn)
                .accept(VERSION_PROTOCOL, TellVersion(version.to_owned()))
                .spawn()
        };
        let bound = endpoint.bound_sockets();
        Ok(Self {
            address: bound.first().copied().unwrap_or(listen),
            endpoint,
            router: Some(router),
            sessions,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions that were opened, and that were refused.
    pub fn sessions(&self) -> (usize, usize) {
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        (count(&self.sessions.opened), count(&self.sessions.refused))
    }

    /// Waits for Ctrl-C or, where there is such a thing, SIGTERM.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let told = runtime()?.block_on(told_to_end());
        told.map_err(|error| DeviceError::System(error.to_string()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (router, endpoint) = (self.router.take(), self.endpoint.clone());
        say_goodbye(async move {
            if let Some(router) = router {
                let _ = router.shutdown().await;
            }
            endpoint.close().await;
        });
    }
}

#[cfg(unix)]
async fn told_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn told_to_end() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Lets in who shows the digest of the token and has this version.
fn authorizer(
    token: &Token,
    version: &str,
    sessions: Arc<Sessions>,
) -> impl Fn(AuthorizationRequest<'_>) -> Result<(), String> + Send + Sync + 'static {
    let (proof, ours) = (token.proof(), version.to_owned());
    move |request| {
        let admitted = admit(request.credential.as_bytes(), proof, &ours);
        let counter = match &admitted {
            Ok(()) => &sessions.opened,
            Err(_) => &sessions.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match &admitted {
            Ok(()) => tracing::info!("{} is let in", request.client),
            Err(reason) => tracing::warn!("{} is refused: {reason}", request.client),
        }
        admitted
    }
}

/// The digest, then the version.
fn credential(token: &Token) -> Vec<u8> {
    [&token.proof()[..], VERSION.as_bytes()].concat()
}

fn admit(credential: &[u8], proof: [u8; 32], ours: &str) -> Result<(), String> {
    let Some((shown, version)) = credential.split_first_chunk::<32>() else {
        return Err("it shows no token".to_owned());
    };
    // All bytes are compared, so that the time tells nothing about the first wrong one.
    let differing = shown.iter().zip(proof).map(|(a, b)| a ^ b);
    if differing.fold(0, |all, bits| all | bits) != 0 {
        return Err("it shows another token".to_owned());
    }
    let theirs = String::from_utf8_lossy(version);
    match theirs == ours {
        true => Ok(()),
        false => Err(format!(
            "it is espalier {theirs} and this is espalier {ours}: both sides need the same version"
        )),
    }
}

/// Answers whoever asks for the version.
#[derive(Debug)]
struct TellVersion(String);

impl ProtocolHandler for TellVersion {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        connection.close(0u32.into(), self.0.as_bytes());
        connection.closed().await;
        Ok(())
    }
}

/// The connection to a worker, which ends with it.
pub(super) struct Link {
    endpoint: Endpoint,
}

impl Link {
    /// Opens the worker's device. `patience` is how long the worker may be silent before it
    /// counts as lost.
    pub(super) fn open(
        name: &DeviceName,
        (host, port): (&str, u16),
        token: &Token,
        patience: Duration,
    ) -> Result<(Self, Device), DeviceError> {
        let addresses = (host, port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = addresses
            .map_err(|source| DeviceError::Host {
                name: name.clone(),
                source,
            })?
            .collect();
        let runtime = runtime()?;
        // One for each worker: Burn tells devices apart by the keys of both sides, and all
        // workers with one token have one key.
        let any = ["0.0.0.0:0", "[::]:0"].map(|text| text.parse::<SocketAddr>());
        let any: Vec<SocketAddr> = any.into_iter().flatten().collect();
        let endpoint = runtime
            .block_on(bind(&any, None, patience))
            .map_err(DeviceError::System)?;
        let link = Self { endpoint };
        let server = addresses.into_iter().fold(
            EndpointAddr::new(SecretKey::from_bytes(&token.key()).public()),
            EndpointAddr::with_ip_addr,
        );
        let theirs = runtime.block_on(link.ask_version(name, &server, patience))?;
        if theirs != VERSION {
            return Err(DeviceError::OtherVersion {
                name: name.clone(),
                theirs,
                ours: VERSION.to_owned(),
            });
        }
        let host = burn::remote::IrohHost::new(server).with_endpoint(link.endpoint.clone());
        let host = RemoteHost::iroh(host).with_credential(credential(token));
        let device = Device::remote_options(&host)
            .init()
            .map_err(|error| refused(name, error))?;
        Ok((link, device))
    }

    async fn ask_version(
        &self,
        name: &DeviceName,
        server: &EndpointAddr,
        patience: Duration,
    ) -> Result<String, DeviceError> {
        let silent = || DeviceError::NoAnswer {
            name: name.clone(),
            seconds: patience.as_secs(),
        };
        let asked = async {
            let connection = self
                .endpoint
                .connect(server.clone(), VERSION_PROTOCOL)
                .await;
            match connection {
                Ok(connection) => match connection.closed().await {
                    ConnectionError::ApplicationClosed(close) => Ok(close.reason),
                    ConnectionError::TimedOut => Err(silent()),
                    other => Err(broken(name, other)),
                },
                Err(error) => Err(match cause(&error) {
                    Some(ConnectionError::TimedOut) => silent(),
                    // The worker proves another key than the token's.
                    Some(ConnectionError::TransportError(_)) => {
                        DeviceError::OtherToken(name.clone())
                    }
                    _ => broken(name, error),
                }),
            }
        };
        let reason = timeout(patience, asked)
            .await
            .unwrap_or_else(|_| Err(silent()))?;
        Ok(String::from_utf8_lossy(&reason).into_owned())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let endpoint = self.endpoint.clone();
        say_goodbye(async move { endpoint.close().await });
    }
}

/// Lets the other side know at once that this one is gone, where it is there. Waits for
/// [`FAREWELL`] at the most; what takes longer goes on behind.
fn say_goodbye(farewell: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = runtime() {
        let farewell = runtime.spawn(farewell);
        let _ = runtime.block_on(async { timeout(FAREWELL, farewell).await });
    }
}

/// What happened on the connection, where one was begun.
fn cause(error: &ConnectError) -> Option<&ConnectionError> {
    match error {
        ConnectError::Connection { source, .. } => Some(source),
        ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => Some(source),
        _ => None,
    }
}

fn broken(name: &DeviceName, reason: impl Display) -> DeviceError {
    DeviceError::Connection {
        name: name.clone(),
        reason: format!("{reason:#}"),
    }
}

fn refused(name: &DeviceName, error: BurnError) -> DeviceError {
    match error {
        BurnError::Unauthorized => broken(name, "it refuses this machine; its own output says why"),
        other => broken(name, other),
    }
}

/// A QUIC endpoint that asks nobody but whom it is told to: a worker's with a token, a
/// client's with a key of its own. Only the first address must be free.
async fn bind(
    addresses: &[SocketAddr],
    token: Option<&Token>,
    patience: Duration,
) -> Result<Endpoint, String> {
    // With what lies behind it.
    let text = |error: &dyn Display| format!("{error:#}");
    let beat = patience / 4;
    let config = QuicTransportConfig::builder()
        .max_idle_timeout(Some(
            IdleTimeout::try_from(patience).map_err(|error| text(&error))?,
        ))
        .keep_alive_interval(beat)
        .default_path_keep_alive_interval(beat)
        .default_path_max_idle_timeout(patience)
        // As Burn's own endpoints have it.
        .enable_segmentation_offload(false)
        .build();
    let mut builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(config)
        .clear_ip_transports();
    if let Some(token) = token {
        builder = builder.secret_key(SecretKey::from_bytes(&token.key()));
    }
    for (index, address) in addresses.iter().enumerate() {
        let options = BindOpts::default().set_is_required(index == 0);
        builder = builder
            .bind_addr_with_opts(*address, options)
            .map_err(|error| text(&error))?;
    }
    builder.bind().await.map_err(|error| text(&error))
}

/// Where all connections of this process live.
fn runtime() -> Result<&'static Runtime, DeviceError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| DeviceError::System(error.to_string()))?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_and_the_version_are_let_in() {
        let (token, other) = (random_token(), random_token());
        assert_ne!(token, other);
        let proof = token.proof();
        assert_eq!(admit(&credential(&token), proof, VERSION), Ok(()));
        let no = |credential: &[u8], version| admit(credential, proof, version).unwrap_err();
        assert_eq!(no(b"", VERSION), "it shows no token");
        assert_eq!(no(&credential(&other), VERSION), "it shows another token");
        let both = no(&credential(&token), "9.9.9");
        assert!(
            both.contains("espalier 9.9.9") && both.contains(VERSION),
            "{both}"
        );
    }
}
