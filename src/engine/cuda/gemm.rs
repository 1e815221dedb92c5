//! Matrix products by cuBLASLt: `out = input weight^T + bias`, with what its heuristics chose for a shape kept.

use super::arena::Arena;
use super::device::Gpu;
use super::kernels::launch::{DeviceSlice, Half, Traffic};
use cudarc::cublaslt::{result, sys};
use half::{bf16, f16};
use stageline_base::Fault;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;

/// What an algorithm may use beside its operands. NVIDIA's own frameworks give this much on compute capability 9.0.
const SCRATCH_BYTES: usize = 32 << 20;
/// How partial sums of a product that is split over its depth may meet: in f32, as each is summed. The library's other ways add
/// them in the type of the result (also the one called "in place"), which rounds.
const REDUCTIONS: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
/// Most shapes whose algorithms are kept: decode has few, prefill any number of rows.
const MOST_PLANS: usize = 4096;

/// `CUBLAS_OP_T` of cublas_api.h, which cudarc's binding of cuBLASLt leaves out.
const TRANSPOSED: i32 = 1;

/// A type of cuBLASLt's matrices.
pub trait Element: 'static {
    /// Its name there.
    const TYPE: sys::cudaDataType;
}

impl Element for f32 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
}

impl Element for bf16 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
}

impl Element for f16 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_16F;
}

/// `out [rows, columns] = input [rows, depth] weight^T (+ bias)`, `weight [columns, depth]`; all row-major.
#[derive(Clone, Copy, Debug)]
pub struct Product<T, O> {
    /// `[columns, depth]`.
    pub weight: DeviceSlice<T>,
    /// `[columns]`.
    pub bias: Option<DeviceSlice<T>>,
    /// `[rows, depth]`.
    pub input: DeviceSlice<T>,
    /// `[rows, columns]`.
    pub out: DeviceSlice<O>,
    /// Rows.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// What is summed over.
    pub depth: usize,
}

impl<T, O> Product<T, O> {
    /// What it must move: its operands once. What cuBLASLt moves is its own affair.
    pub fn traffic(&self) -> Traffic {
        let bias = self.bias.map_or(0, |_| self.columns);
        let read = (self.columns * self.depth + self.rows * self.depth + bias) * size_of::<T>();
        Traffic { read_bytes: read as u64, written_bytes: (self.rows * self.columns * size_of::<O>()) as u64 }
    }
}

/// What decides how a product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    columns: usize,
    depth: usize,
    types: (u32, u32),
    bias: bool,
}

/// cuBLASLt's descriptors for a shape, and its algorithm.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    input: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `Gemm::plan`, destroyed once. Destroying host memory does not fail.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.weight, self.input, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// cuBLASLt on one device.
pub struct Gemm {
    gpu: Rc<Gpu>,
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Shape, Plan>,
    scratch: DeviceSlice<u8>,
    _arena: Arena,
}

impl Gemm {
    /// Opens the library.
    ///
    /// # Errors
    /// `DeviceFailed` if it does not work or there is no memory for its scratch space.
    pub fn new(gpu: &Rc<Gpu>) -> Result<Self, Fault> {
        let mut arena = Arena::new(gpu, super::arena::room_bytes(SCRATCH_BYTES), "cuBLASLt")?;
        let scratch = arena.take(SCRATCH_BYTES)?;
        let handle = result::create_handle().map_err(|e| gpu.blas_fault("opening cuBLASLt", e))?;
        Ok(Self { gpu: gpu.clone(), handle, plans: HashMap::new(), scratch, _arena: arena })
    }

    /// Queues a product. The first of a shape asks for an algorithm, later ones only launch.
    ///
    /// # Errors
    /// `Internal` if the slices do not fit the sizes; `DeviceFailed` if the library refuses.
    pub fn run<T: Half + Element, O: Element>(&mut self, product: &Product<T, O>) -> Result<(), Fault> {
        let Product { weight, bias, input, out, rows, columns, depth } = *product;
        let short = weight.len() < columns * depth || input.len() < rows * depth || out.len() < rows * columns;
        if short || bias.is_some_and(|bias| bias.len() < columns) {
            return Err(Fault::internal(format!("a product of {rows} x {depth} x {columns} was given less memory")));
        }
        if rows == 0 {
            return Ok(());
        }
        let shape = Shape { rows, columns, depth, types: (T::TYPE as u32, O::TYPE as u32), bias: bias.is_some() };
        if !self.plans.contains_key(&shape) {
            if self.plans.len() >= MOST_PLANS {
                self.plans.clear();
            }
            let plan = self.plan::<T, O>(&shape, bias)?;
            self.plans.insert(shape, plan);
        }
        let Some(plan) = self.plans.get(&shape) else { return Err(Fault::internal("a plan went missing")) };
        let failed = |e| self.gpu.blas_fault(&format!("a product of {rows} x {depth} x {columns}"), e);
        if let Some(bias) = bias {
            // One plan serves all layers: only the bias differs.
            set(
                plan.operation,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                &bias.address(),
            )
            .map_err(failed)?;
        }
        let (one, zero) = (1f32, 0f32);
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the slices hold as much as the layouts say, which was checked; the plan's parts live; the scratch space is
        // as large as the algorithm was told, and the stream's products use it one after the other.
        let done = unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(weight.address()),
                plan.weight,
                pointer(input.address()),
                plan.input,
                pointer(out.address()),
                plan.out,
                pointer(out.address()),
                plan.out,
                &raw const plan.algorithm,
                pointer(self.scratch.address()),
                SCRATCH_BYTES,
                self.gpu.stream.cu_stream().cast(),
            )
        };
        done.map_err(failed)
    }

    /// cuBLASLt counts columns first: to it, a row-major `[columns, depth]` is a `depth x columns` matrix, and the product
    /// is `out^T = weight input^T`.
    fn plan<T: Element, O: Element>(&self, shape: &Shape, bias: Option<DeviceSlice<T>>) -> Result<Plan, Fault> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Shape { rows, columns, depth, .. } = *shape;
        let failed = |e| self.gpu.blas_fault(&format!("planning a product of {rows} x {depth} x {columns}"), e);
        let layout =
            |kind, fast: usize, slow: usize| result::create_matrix_layout(kind, fast as u64, slow as u64, fast as i64);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let mut plan = Plan {
            operation: result::create_matmul_desc(compute, f32::TYPE).map_err(failed)?,
            weight: layout(T::TYPE, depth, columns).map_err(failed)?,
            input: layout(T::TYPE, depth, rows).map_err(failed)?,
            out: layout(O::TYPE, columns, rows).map_err(failed)?,
            // SAFETY: plain numbers, filled by the heuristics below.
            algorithm: unsafe { std::mem::zeroed() },
        };
        set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED).map_err(failed)?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue).map_err(failed)?;
            set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &T::TYPE).map_err(failed)?;
            set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address()).map_err(failed)?;
        }
        let preference = result::create_matmul_pref().map_err(failed)?;
        // SAFETY: the preference and the plan's parts live; the attributes are a size and a mask of 32 bits.
        let chosen = unsafe {
            use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
            let (scratch, scheme) =
                (Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
            let (size, mask): (*const usize, *const u32) = (&SCRATCH_BYTES, &REDUCTIONS);
            let chosen = result::set_matmul_pref_attribute(preference, scratch, size.cast(), size_of::<usize>())
                .and_then(|()| result::set_matmul_pref_attribute(preference, scheme, mask.cast(), size_of::<u32>()))
                .and_then(|()| {
                    result::get_matmul_algo_heuristic(
                        self.handle,
                        plan.operation,
                        plan.weight,
                        plan.input,
                        plan.out,
                        plan.out,
                        preference,
                    )
                });
            let _ = result::destroy_matmul_pref(preference);
            chosen
        };
        plan.algorithm = chosen.map_err(failed)?.algo;
        Ok(plan)
    }
}

impl Drop for Gemm {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: opened in `new`, closed once; the stream's work holds no reference to it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn set<V>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &V,
) -> Result<(), result::CublasError> {
    // SAFETY: the descriptor lives, and every attribute set here is given a value of its own type.
    unsafe { result::set_matmul_desc_attribute(operation, attribute, (&raw const *value).cast(), size_of::<V>()) }
}
