#include "kernels/topk_select/topk_select.h"
