//! What the reference says of durable requests.

use super::{example, headers_of, refusals};
use crate::api::native::replies::{Listing, StandingBody, Whole};
use crate::http::refusal::ErrorBody;
use schemars::SchemaGenerator;
use serde_json::{Value, json};

/// The answer 202 to a request that is answered later.
pub(super) fn accepted(schemas: &mut SchemaGenerator) -> Value {
    let standing = StandingBody {
        id: "124239a6d54315f4ff0913cbc841d0a2".into(),
        status: "waiting",
        answer_tokens: 0,
        call_id: "5f0c9f0e6f8c4f1b9a0d7c3e2b1a0f9e".into(),
    };
    json!({
        "description": "It is kept, and will be answered.",
        "headers": headers_of(202, true, false),
        "content": { "application/json": {
            "schema": schemas.subschema_for::<StandingBody>(),
            "examples": { "standing": example("How it stands", standing) },
        } },
    })
}

/// `/requests/{id}`.
pub(super) fn path(schemas: &mut SchemaGenerator) -> Value {
    let id = json!({
        "name": "id", "in": "path", "required": true, "description": "The request's id, as X-Stageline-Request said.",
        "schema": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
    });
    let after = json!({
        "name": "starting_after", "in": "query",
        "description": "With events: the id of the last one that the client has; the same as `Last-Event-ID`.",
        "schema": { "type": "integer", "minimum": 0, "maximum": 4_294_967_294u32 },
    });
    let whole = [schemas.subschema_for::<Whole>(), schemas.subschema_for::<super::Embedding>()];
    let mut shown = refusals(&[400, 401, 404, 410, 413, 421, 429, 499, 500, 501, 503, 504], true);
    shown.insert(
        "200".into(),
        json!({
            "description": "The answer, as of `POST /`: whole, or as events.",
            "headers": headers_of(200, true, true),
            "content": {
                "application/json": { "schema": { "oneOf": whole } },
                "text/event-stream": { "schema": { "type": "string" } },
            },
        }),
    );
    let mut standing = accepted(schemas);
    standing["description"] = "It has not ended.".into();
    standing["headers"] = headers_of(200, true, false);
    shown.insert("202".into(), standing);
    let mut cancelled = refusals(&[401, 404, 421, 500, 501, 503], false);
    cancelled.insert(
        "204".into(),
        json!({ "description": "It ends, or has ended.", "headers": headers_of(204, false, false) }),
    );
    let _ = schemas.subschema_for::<ErrorBody>();
    json!({
        "parameters": [id],
        "get": {
            "operationId": "show", "summary": "The answer to a durable request, or how it stands",
            "description": "At any door of the pipeline. `Accept: text/event-stream` asks for events, from behind the one that \
                            `Last-Event-ID` or `starting_after` names.",
            "parameters": [after, { "$ref": "#/components/parameters/Last-Event-ID" }],
            "responses": shown,
        },
        "delete": {
            "operationId": "cancel", "summary": "End a durable request",
            "responses": cancelled,
        },
    })
}

/// `/requests`.
pub(super) fn list(schemas: &mut SchemaGenerator) -> Value {
    let limit = json!({
        "name": "limit", "in": "query", "description": "How many at most; 100 where it is absent.",
        "schema": { "type": "integer", "minimum": 1, "maximum": 10_000 },
    });
    let mut responses = refusals(&[400, 401, 404, 421, 501, 503], false);
    responses.insert(
        "200".into(),
        json!({
            "description": "They, newest first.", "headers": headers_of(200, false, false),
            "content": { "application/json": { "schema": schemas.subschema_for::<Listing>() } },
        }),
    );
    json!({ "get": {
        "operationId": "list", "summary": "The durable requests of this client; all, for the key named admin",
        "parameters": [limit], "responses": responses,
    } })
}

/// `/requests/{id}/retry`.
pub(super) fn retry(schemas: &mut SchemaGenerator) -> Value {
    let mut responses = refusals(&[400, 401, 404, 421, 500, 501, 503], false);
    let mut accepted = accepted(schemas);
    accepted["headers"] = headers_of(202, false, false);
    accepted["headers"]["X-Stageline-Request"] = json!({ "$ref": "#/components/headers/X-Stageline-Request" });
    responses.insert("202".into(), accepted);
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
    json!({
        "parameters": [id],
        "post": {
            "operationId": "retry",
            "summary": "Run a request anew that failed, or tell anew what was answered",
            "responses": responses,
        },
    })
}
