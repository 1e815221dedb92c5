//! A fault as a gRPC status.

use stageline_base::{Fault, FaultClass};
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// When a client may try again, at the earliest.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status that tells `fault`, with google.rpc details: an ErrorInfo, and a RetryInfo where a retry may help.
pub(super) fn of(fault: &Fault) -> Status {
    let row = fault.class.row();
    let stage = fault.stage.map(|stage| ("stage".to_owned(), stage.to_string())).into_iter().collect::<HashMap<_, _>>();
    let mut details = ErrorDetails::with_error_info(row.name.to_ascii_uppercase(), "stageline", stage);
    if row.retry {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    if fault.class == FaultClass::InvalidRequest
        && let Some(field) = fault.message.split('`').nth(1)
    {
        details.add_bad_request_violation(field, fault.message.clone());
    }
    Status::with_error_details(Code::from_i32(row.grpc), fault.message.clone(), details)
}
