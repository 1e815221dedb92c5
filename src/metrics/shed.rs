//! Why a door gives up a connection.

/// Why a connection, or a call of an HTTP/2 connection, was given up although its client had not ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// It had waited longest where there was no room for another: see `max_connections`.
    NoRoom,
    /// Its address has `max_connections_per_peer` already.
    PerPeer,
    /// It sent nothing, or no whole head of a request, in time.
    SlowHead,
    /// It did not send the whole body of a request in time.
    SlowBody,
    /// It took nothing of its answer in time.
    NotReading,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::NoRoom, Self::PerPeer, Self::SlowHead, Self::SlowBody, Self::NotReading];

    /// Its name on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoom => "max_connections",
            Self::PerPeer => "max_connections_per_peer",
            Self::SlowHead => "slow_head",
            Self::SlowBody => "slow_body",
            Self::NotReading => "not_reading",
        }
    }
}
