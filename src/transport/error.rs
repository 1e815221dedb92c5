//! What can go wrong at setting a transport up, in words that say what to do.

use stageline_base::{Fault, FaultClass};
use stageline_wire::WireError;

/// Why a transport or its leases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No server answers.
    #[error(
        "cannot reach NATS at {url}: {cause}. Start a server there (nats-server -js) or name the right one with --nats"
    )]
    Connect {
        /// Where, without credentials.
        url: String,
        /// The library's words.
        cause: String,
    },
    /// The server does not let us in.
    #[error(
        "the NATS server at {url} refuses us: {cause}. Put user and password (or a token) into the URL, \
         nats://user:password@host:4222, or name a .creds file"
    )]
    Refused {
        /// Which server.
        url: String,
        /// The library's words.
        cause: String,
    },
    /// The URL is none.
    #[error("{url:?} is not the URL of a NATS server: {cause}. It looks like nats://host:4222")]
    Url {
        /// What was given, without credentials.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The credentials file cannot be used.
    #[error("cannot use the NATS credentials or password file {path}: {cause}")]
    Credentials {
        /// Which file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The server has no JetStream.
    #[error("the NATS server at {url} has no JetStream, which holds the replicas' leases: start nats-server with -js")]
    NoJetStream {
        /// Which server.
        url: String,
    },
    /// The server did not do what it was asked.
    #[error("the NATS server at {url} did not {what}: {cause}")]
    Broker {
        /// Which server.
        url: String,
        /// What it was asked.
        what: &'static str,
        /// The library's words.
        cause: String,
    },
    /// The port at which other stages join cannot be opened.
    #[error("cannot open the hop port at {listen}: {cause}. Name another with --hop-listen, and --hop-advertise")]
    HopPort {
        /// Where.
        listen: std::net::SocketAddr,
        /// The system's words.
        cause: String,
    },
    /// There are no random numbers.
    #[error("cannot draw what this stage shows where it joins others, from /dev/urandom: {cause}")]
    Secret {
        /// The system's words.
        cause: String,
    },
    /// A name that no subject can carry.
    #[error(transparent)]
    Name(#[from] WireError),
}

impl From<TransportError> for Fault {
    fn from(error: TransportError) -> Self {
        let class = match error {
            TransportError::Url { .. } | TransportError::Name(_) => FaultClass::InvalidRequest,
            _ => FaultClass::Unavailable,
        };
        Fault::new(class, error.to_string())
    }
}
