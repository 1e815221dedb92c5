//! What tests break on purpose.

/// Defects that a test can plant: each breaks one rule of the protocol, and a checker must turn red.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    None,
    /// Blocks are freed although a batch with the sequence's rows is still on the device.
    FreeWhileBusy,
    /// A closed sequence is forgotten at once, so that a late Open brings it back.
    ForgetTombstone,
    /// Neither a hole in a link's numbers nor a gap in a sequence's rows is noticed.
    IgnoreGap,
    /// A sender never asks what became of its frames.
    NeverProbe,
    /// Nobody minds that a replica of a request's path is dead.
    IgnoreDeath,
    /// The credit of dropped rows is not given back.
    KeepCredit,
    /// A failed batch is not run again and nobody is told.
    SwallowFailure,
    /// A Close is not passed on.
    StopClose,
    /// Feedback is sent once and forgotten.
    ForgetFeedback,
    /// The door takes a token at any position.
    AcceptAnyPosition,
    /// A door whose lease was not renewed for a while goes on as if stages had kept what was its own.
    TrustAfterCut,
    /// The door opens new attempts at a replica that is about to end.
    OpenAtDraining,
    /// A stage that is told to give its sequences back keeps them.
    KeepWhenToldToGiveBack,
    /// A link's mail counts, whoever sends it.
    HearStrangers,
    /// A Hello of any epoch counts.
    TakeAnyEpoch,
    /// A sender whose Hello is below the receiver's epoch is not told so.
    LeaveBehind,
    /// An Open counts, whatever its door.
    OpenForAnyDoor,
    /// An Open that is ahead of its door's lease is not kept.
    ForgetEarlyOpen,
    /// Rows count, whichever way they come.
    TakeAnyRows,
    /// A CloseNow counts, whoever sends it.
    CloseForAnyone,
    /// Doors that hold no lease are told too.
    TellAnyone,
    /// Closed sequences are remembered without a bound.
    KeepTombstones,
    /// The door believes every replica's reports.
    BelieveAnyone,
    /// Ids beyond the vocabulary count.
    TakeAnyId,
    /// An answer goes on before anybody has said so.
    GoOnUnasked,
    /// What another door has generated is not part of the answer.
    ForgetBegun,
    /// The owner of a durable request shows tokens that are not in its log yet.
    ShowUnlogged,
    /// An owner that another has followed says that the job is done.
    SettleFenced,
    /// An owner that does not know whether its record was written takes it for written.
    TrustUnsure,
    /// An owner never looks what others wrote.
    NeverLook,
    /// An end is told before it is in the log.
    TellEarly,
    /// Nobody minds how many owners a request has ended.
    ForgetDeaths,
    /// The next owner begins the answer again.
    BeginAnew,
    /// The owner says that the job is done once the answer is, told or not.
    DoneUntold,
    /// What is logged is not shown.
    ForgetToShow,
    /// What is logged is shown twice.
    ShowTwice,
    /// Records are appended wherever the log ends.
    AppendAnywhere,
}
