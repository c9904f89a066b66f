/// Why a card could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused a thread, an event or a poll.
    #[error(transparent)]
    Host(#[from] ostler_worker::Error),
    /// What the card's frames go to.
    #[error("the network behind the card could not be used: {0}")]
    Network(#[from] ostler_netio::Error),
}
