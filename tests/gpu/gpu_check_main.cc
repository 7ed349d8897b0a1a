// All kernel tests in one program: most of its size is what they share.
#include <gtest/gtest.h>

#include "tests/kernels/kernel_test.h"

int main(int argc, char** argv) { return skv::test::kernel_test_main(argc, argv, nullptr); }
