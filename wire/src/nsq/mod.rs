//! The V2 protocol between a node and its clients.
//!
//! A client opens with [`MAGIC_V2`], then sends commands; [`Decoder`] finds them in a growing buffer and
//! borrows their bodies from it. A node answers in frames: [`put_frame`] for replies and errors,
//! [`put_message`] for messages, whose frame is also what the journal stores. The `put_*` commands and
//! [`FrameDecoder`] are the client's side of the same bytes. All binary integers are big-endian.

mod frame;
mod message;

pub use frame::{
    CLOSE_WAIT_FRAME, Frame, FrameDecoder, FrameError, FrameType, HEARTBEAT_FRAME, OK_FRAME, put_frame,
};
pub use message::{MESSAGE_OVERHEAD, MessageView, message_frame_len, put_message, set_attempts};

/// What a client must send before its first command.
pub const MAGIC_V2: [u8; 4] = *b"  V2";
