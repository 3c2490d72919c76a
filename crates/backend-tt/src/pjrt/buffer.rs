//! Arrays on a device.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::client::{Client, Handle, Inner, Mode, Numeric, TypeCode, report};
use super::error::PjrtError;
use super::ffi;

/// What an array's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// A truth value, one byte.
    Pred,
    /// A signed 32-bit integer.
    S32,
    /// A 32-bit float.
    F32,
    /// A bfloat16.
    Bf16,
}

impl ElementType {
    /// Bytes that one element takes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred => 1,
            Self::Bf16 => 2,
            Self::S32 | Self::F32 => 4,
        }
    }

    /// Bytes that an array takes.
    ///
    /// # Errors
    /// [`PjrtError::InvalidArgument`] where no memory could hold it.
    pub fn array_bytes(self, dimensions: &[usize]) -> Result<usize, PjrtError> {
        dimensions.iter().try_fold(self.bytes(), |bytes, &size| bytes.checked_mul(size)).ok_or_else(|| {
            PjrtError::InvalidArgument(format!("{dimensions:?} of {self} are more bytes than there can be"))
        })
    }

    /// `PJRT_Buffer_Type`.
    pub(super) fn code(self) -> TypeCode {
        match self {
            Self::Pred => 1,
            Self::S32 => 4,
            Self::F32 => 11,
            Self::Bf16 => 13,
        }
    }

    fn of_code(code: TypeCode) -> Result<Self, PjrtError> {
        [Self::Pred, Self::S32, Self::F32, Self::Bf16]
            .into_iter()
            .find(|element| element.code() == code)
            .ok_or(PjrtError::ElementType(code))
    }
}

/// As StableHLO spells it.
impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pred => "i1",
            Self::S32 => "i32",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// An array on a device. Its contents may still be on their way; whoever reads it waits.
///
/// Those of a mock cannot be read:
///
/// ```compile_fail,E0599
/// # use smolvla_backend_tt::pjrt::{Buffer, Mock};
/// fn read(buffer: &Buffer<Mock>) {
///     buffer.to_host();
/// }
/// ```
#[derive(Debug)]
pub struct Buffer<M: Mode> {
    raw: Handle<ffi::Buffer>,
    client: Arc<Inner>,
    element_type: ElementType,
    dimensions: Vec<usize>,
    mode: PhantomData<fn() -> M>,
}

impl<M: Mode> Buffer<M> {
    pub(super) fn new(
        client: &Client<M>,
        raw: Handle<ffi::Buffer>,
        element_type: ElementType,
        dimensions: Vec<usize>,
    ) -> Self {
        Self { raw, client: Arc::clone(&client.inner), element_type, dimensions, mode: PhantomData }
    }

    /// Takes over an array that a program made; [`Self::describe`] then asks what it is.
    pub(super) fn adopt(client: &Client<M>, raw: Handle<ffi::Buffer>) -> Self {
        Self::new(client, raw, ElementType::F32, Vec::new())
    }

    /// Asks the plugin for type and sizes.
    pub(super) fn describe(mut self) -> Result<Self, PjrtError> {
        let mut element = ffi::BufferElementType::new();
        element.buffer = self.raw.get();
        // SAFETY: the buffer is alive.
        unsafe { self.client.call("PJRT_Buffer_ElementType", |api| api.buffer_element_type, &mut element)? };
        self.element_type = ElementType::of_code(element.element_type)?;
        let mut shape = ffi::BufferDimensions::new();
        shape.buffer = self.raw.get();
        // SAFETY: the buffer is alive.
        unsafe { self.client.call("PJRT_Buffer_Dimensions", |api| api.buffer_dimensions, &mut shape)? };
        if shape.num_dims > 0 {
            if shape.dims.is_null() {
                return Err(PjrtError::NoResult { call: "PJRT_Buffer_Dimensions" });
            }
            // SAFETY: the list belongs to the buffer and is as long as it says.
            let sizes = unsafe { std::slice::from_raw_parts(shape.dims, shape.num_dims) };
            let sizes = sizes.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
            self.dimensions = sizes.map_err(|_| {
                PjrtError::InvalidArgument("an output has a dimension of unknown size".to_owned())
            })?;
        }
        Ok(self)
    }

    /// The elements' type.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Sizes, the outermost first.
    pub fn dimensions(&self) -> &[usize] {
        &self.dimensions
    }

    /// Waits until the program that makes this array is done.
    ///
    /// # Errors
    /// The program's; [`PjrtError::MissingFunction`] where the plugin cannot tell.
    pub fn wait(&self) -> Result<(), PjrtError> {
        let mut arguments = ffi::BufferReadyEvent::new();
        arguments.buffer = self.raw.get();
        // SAFETY: the buffer is alive.
        unsafe { self.client.call("PJRT_Buffer_ReadyEvent", |api| api.buffer_ready_event, &mut arguments)? };
        // SAFETY: the event is this call's, and nobody else has it.
        unsafe { self.client.functions().finish(arguments.event) }
    }

    pub(super) fn raw(&self) -> *mut ffi::Buffer {
        self.raw.get()
    }

    /// Whether the array is of this connection.
    pub(super) fn belongs_to(&self, client: &Arc<Inner>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }
}

impl Buffer<Numeric> {
    /// Waits for the array and copies it to the host: dense, the last dimension's elements together.
    ///
    /// # Errors
    /// The plugin's, and those of the program that makes the array.
    pub fn to_host(&self) -> Result<Vec<u8>, PjrtError> {
        let mut bytes = vec![0; self.element_type.array_bytes(&self.dimensions)?];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        // Asked for by name: a plugin may lay out what it computed as it likes, and would copy it as it lies.
        let order: Vec<i64> = (0..self.dimensions.len() as i64).rev().collect();
        let mut layout = ffi::MemoryLayout::new();
        layout.kind = ffi::LAYOUT_TILED;
        layout.tiled = ffi::Tiled::new();
        layout.tiled.minor_to_major = order.as_ptr();
        layout.tiled.minor_to_major_size = order.len();
        let mut arguments = ffi::BufferToHostBuffer::new();
        arguments.src = self.raw.get();
        arguments.host_layout = &raw const layout;
        arguments.dst = bytes.as_mut_ptr().cast::<c_void>();
        arguments.dst_size = bytes.len();
        // SAFETY: the buffer is alive, the layout outlives the call, and `bytes` outlives the wait for the event below:
        // nothing between the two returns.
        unsafe {
            self.client.call("PJRT_Buffer_ToHostBuffer", |api| api.buffer_to_host_buffer, &mut arguments)?
        };
        // SAFETY: the event is this call's, and nobody else has it.
        unsafe { self.client.functions().finish(arguments.event)? };
        Ok(bytes)
    }
}

impl<M: Mode> Drop for Buffer<M> {
    fn drop(&mut self) {
        let mut arguments = ffi::BufferDestroy::new();
        arguments.buffer = self.raw.get();
        // SAFETY: nothing uses the buffer afterwards; programs that still read it hold it by themselves.
        report(unsafe { self.client.call("PJRT_Buffer_Destroy", |api| api.buffer_destroy, &mut arguments) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_that_no_memory_holds_are_refused() {
        assert_eq!(ElementType::Bf16.array_bytes(&[3, 5]).unwrap(), 30);
        assert_eq!(ElementType::F32.array_bytes(&[]).unwrap(), 4);
        assert_eq!(ElementType::F32.array_bytes(&[0, usize::MAX]).unwrap(), 0);
        let error = ElementType::S32.array_bytes(&[usize::MAX, 2]).unwrap_err();
        assert!(matches!(error, PjrtError::InvalidArgument(_)), "{error}");
    }

    #[test]
    fn element_types_have_the_interface_s_numbers() {
        for element in [ElementType::Pred, ElementType::S32, ElementType::F32, ElementType::Bf16] {
            assert_eq!(ElementType::of_code(element.code()).unwrap(), element);
        }
        assert!(matches!(ElementType::of_code(12), Err(PjrtError::ElementType(12))));
    }
}
