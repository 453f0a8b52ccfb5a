// What we use of cuBLAS, with the signatures of NVIDIA's reference. Every call is written down, and answered as told.
#include <cstddef>
#include <cstdio>
#include <map>
#include <string>

enum cublasStatus_t : int {};
enum cublasOperation_t : int {};
enum cublasPointerMode_t : int {};
enum cublasMath_t : int {};
enum cublasComputeType_t : int {};
enum cublasGemmAlgo_t : int {};
enum cudaDataType_t : int {};
typedef struct cublasContext* cublasHandle_t;
typedef struct CUstream_st* cudaStream_t;

static std::string written;
static std::map<std::string, int> answers;
static int handles = 0;

template <class T> static std::string text(T value) { return std::to_string(static_cast<long long>(value)); }
template <class T> static std::string text(T* value) { return std::to_string(reinterpret_cast<unsigned long long>(value)); }

template <class... Arguments> static cublasStatus_t note(const char* name, Arguments... arguments) {
    written += name;
    ((written += " " + text(arguments)), ...);
    written += "\n";
    return static_cast<cublasStatus_t>(answers[name]);
}

extern "C" {
const char* calls() { return written.c_str(); }
void forget() { written.clear(); }
void answer(const char* name, int status) { answers[name] = status; }

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = reinterpret_cast<cublasHandle_t>(0x7000000000ull + 256 * ++handles);
    return note("create");
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t streamId) { return note("stream", handle, streamId); }

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t workspaceSizeInBytes) {
    return note("workspace", handle, workspace, workspaceSizeInBytes);
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) { return note("pointers", handle, mode); }

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) { return note("math", handle, mode); }

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                            const void* alpha, const void* A, cudaDataType_t Atype, int lda, const void* B,
                            cudaDataType_t Btype, int ldb, const void* beta, void* C, cudaDataType_t Ctype, int ldc,
                            cublasComputeType_t computeType, cublasGemmAlgo_t algo) {
    return note("gemm", handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc,
                computeType, algo);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m,
                                          int n, int k, const void* alpha, const void* A, cudaDataType_t Atype, int lda,
                                          long long int strideA, const void* B, cudaDataType_t Btype, int ldb,
                                          long long int strideB, const void* beta, void* C, cudaDataType_t Ctype, int ldc,
                                          long long int strideC, int batchCount, cublasComputeType_t computeType,
                                          cublasGemmAlgo_t algo) {
    return note("batch", handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C,
                Ctype, ldc, strideC, batchCount, computeType, algo);
}
}
